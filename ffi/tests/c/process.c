/* What happens to the process around the library: memory that is refused, a model file that is cut
   short, fork, dlopen and dlclose, and what is left in memory. process WHAT MODEL LIBRARY */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static critic_request request_of(const char *prompt, const char *response) {
  critic_request request = critic_request_default();
  request.prompt = critic_text_of(prompt);
  request.response = critic_text_of(response);
  request.max_tokens = 8;
  return request;
}

/* Bytes of address space in use. */
static size_t address_space(void) {
  unsigned long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
  fclose(file);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void limit_address_space(size_t bytes) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
  limit.rlim_cur = bytes;
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* Scratch memory and the KV cache are refused: a status, and all works once there is memory. */
static void memory(const char *path) {
  critic_model *model;
  critic_session *session = NULL;
  critic_result *result = NULL;
  critic_error error;
  critic_request request = request_of("Name a fruit.", "Apple.");
  EXPECT(CRITIC_OK, critic_model_open(path, NULL, &model, NULL));
  limit_address_space(address_space() + (1 << 20));
  EXPECT(CRITIC_OUT_OF_MEMORY, critic_session_new(model, NULL, &session, &error));
  CHECK(session == NULL && strstr(error.message, "bytes") != NULL);
  limit_address_space(RLIM_INFINITY);
  EXPECT(CRITIC_OK, critic_session_new(model, NULL, &session, &error));
  /* A page of keys and values is larger than what is left, the small things are not. */
  limit_address_space(address_space() + (1 << 20));
  EXPECT(CRITIC_OUT_OF_MEMORY, critic_critique(session, &request, &result, &error));
  CHECK(result == NULL);
  limit_address_space(RLIM_INFINITY);
  EXPECT(CRITIC_OK, critic_critique(session, &request, &result, &error));
  CHECK(critic_result_critique(result).len > 0);
  critic_result_free(result);
  critic_session_free(session);
  critic_model_free(model);
}

/* With CRITIC_MEMORY_COPY a file that is cut short under the model does no harm. */
static void truncated(const char *path) {
  critic_model *model;
  critic_session *session;
  critic_result *result;
  critic_model_options options = critic_model_options_default();
  critic_request request = request_of("Name a fruit.", "Apple.");
  options.memory = CRITIC_MEMORY_COPY;
  EXPECT(CRITIC_OK, critic_model_open(path, &options, &model, NULL));
  CHECK(truncate(path, 0) == 0);
  EXPECT(CRITIC_OK, critic_session_new(model, NULL, &session, NULL));
  EXPECT(CRITIC_OK, critic_critique(session, &request, &result, NULL));
  critic_result_free(result);
  critic_session_free(session);
  critic_model_free(model);
}

/* The child of a process whose session has threads makes a session of its own from the same model. */
static void forked(const char *path) {
  critic_model *model;
  critic_session *session, *own;
  critic_result *result, *same;
  critic_request request = request_of("Name a fruit.", "Apple.");
  int status;
  pid_t child;
  EXPECT(CRITIC_OK, critic_model_open(path, NULL, &model, NULL));
  EXPECT(CRITIC_OK, critic_session_new(model, NULL, &session, NULL));
  EXPECT(CRITIC_OK, critic_critique(session, &request, &result, NULL));
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    EXPECT(CRITIC_OK, critic_session_new(model, NULL, &own, NULL));
    EXPECT(CRITIC_OK, critic_critique(own, &request, &same, NULL));
    CHECK(critic_result_critique(same).len == critic_result_critique(result).len);
    CHECK(memcmp(critic_result_critique(same).data, critic_result_critique(result).data,
                 critic_result_critique(result).len) == 0);
    critic_result_free(same);
    critic_session_free(own);
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  critic_result_free(result);
  critic_session_free(session);
  critic_model_free(model);
}

static int threads(void) {
  int count = 0;
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks != NULL);
  for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
    count += entry->d_name[0] != '.';
  }
  closedir(tasks);
  return count;
}

#define LOAD(name) __typeof__(&name) name##_ = (__typeof__(&name))dlsym(library, #name); CHECK(name##_ != NULL)

/* Opened at run time, used, and closed, over and over: free joins the threads. */
static void loaded(const char *path, const char *file) {
  int before = threads(), round;
  for (round = 0; round < 3; round++) {
    critic_model *model;
    critic_session *session;
    critic_result *result;
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    {
      LOAD(critic_model_open);
      LOAD(critic_model_free);
      LOAD(critic_session_new);
      LOAD(critic_session_free);
      LOAD(critic_critique);
      LOAD(critic_result_free);
      critic_request request = request_of("Name a fruit.", "Apple.");
      EXPECT(CRITIC_OK, critic_model_open_(path, NULL, &model, NULL));
      EXPECT(CRITIC_OK, critic_session_new_(model, NULL, &session, NULL));
      EXPECT(CRITIC_OK, critic_critique_(session, &request, &result, NULL));
      critic_result_free_(result);
      critic_session_free_(session);
      critic_model_free_(model);
    }
    CHECK(threads() == before);
    CHECK(dlclose(library) == 0);
  }
}

/* How often text lies in memory that can be written, the stack aside. */
static int occurrences(const char *text, size_t len) {
  char line[512];
  int found = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  CHECK(maps != NULL);
  setvbuf(maps, NULL, _IONBF, 0);
  while (fgets(line, sizeof line, maps) != NULL) {
    unsigned long from, to;
    char rights[5];
    CHECK(sscanf(line, "%lx-%lx %4s", &from, &to, rights) == 3);
    if (rights[0] == 'r' && rights[1] == 'w' && strstr(line, "[stack]") == NULL) {
      const char *at = (const char *)from, *end = (const char *)to;
      while ((at = memmem(at, (size_t)(end - at), text, len)) != NULL) {
        found++;
        at++;
      }
    }
  }
  fclose(maps);
  return found;
}

/* After all is freed, nothing of the text is left. */
static void remains(const char *path) {
  char secret[] = "rdqolpnnwkhbru"; /* one letter off, so that this is not found */
  char response[64], wanted[16];
  critic_model *model;
  critic_session *session;
  critic_result *result;
  critic_request request;
  size_t i, len = strlen(secret);
  for (i = 0; i < len; i++) {
    wanted[i] = (char)(secret[i] + 1);
  }
  wanted[len] = 0;
  snprintf(response, sizeof response, "I said %s.", wanted);
  request = request_of("Who was it?", response);
  EXPECT(CRITIC_OK, critic_model_open(path, NULL, &model, NULL));
  EXPECT(CRITIC_OK, critic_session_new(model, NULL, &session, NULL));
  EXPECT(CRITIC_OK, critic_improve(session, &request, &result, NULL));
  /* The search finds it where it is: in a result, or in a copy made here. */
  char *copy = strdup(response);
  CHECK(occurrences(wanted, len) > 0);
  memset(copy, 0, strlen(copy));
  free(copy);
  critic_result_free(result);
  critic_session_free(session);
  CHECK(occurrences(wanted, len) == 0);
  critic_model_free(model);
}

int main(int argc, char **argv) {
  CHECK(argc == 4);
  if (strcmp(argv[1], "memory") == 0) {
    memory(argv[2]);
  } else if (strcmp(argv[1], "truncated") == 0) {
    truncated(argv[2]);
  } else if (strcmp(argv[1], "fork") == 0) {
    forked(argv[2]);
  } else if (strcmp(argv[1], "dlopen") == 0) {
    loaded(argv[2], argv[3]);
  } else {
    CHECK(strcmp(argv[1], "remains") == 0);
    remains(argv[2]);
  }
  return 0;
}
