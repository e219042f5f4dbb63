"""The smallest client in another language: constants and structs come from the header itself.

smoke.py HEADER LIBRARY MODEL
"""

import ctypes
import re
import sys

header, library, model_path = sys.argv[1:]
source = re.sub(r"/\*.*?\*/", "", open(header, encoding="utf-8").read(), flags=re.S)
lib = ctypes.CDLL(library)

constants = {n: int(v) for n, v in re.findall(r"\b(CRITIC_[A-Z_0-9]+) = (\d+)", source)}
constants |= {n: int(v) for n, v in re.findall(r"#define (CRITIC_[A-Z_0-9]+) (\d+)", source)}

types = {
    "size_t": ctypes.c_size_t,
    "uint64_t": ctypes.c_uint64,
    "uint32_t": ctypes.c_uint32,
    "int32_t": ctypes.c_int32,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
for integer, name in re.findall(r"typedef (u?int32_t) (\w+);", source):
    types[name] = types[integer]
for name in re.findall(r"typedef \w+ \(\*(\w+)\)", source):
    types[name] = ctypes.c_void_p  # set with ctypes.cast
structs = {}
for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", source, flags=re.S):
    fields = []
    for field in filter(None, (line.strip() for line in body.split(";"))):
        kind, pointer, field, length = re.fullmatch(r"(?:const )?(\w+) (\*?)(\w+)(?:\[(\d+)\])?", field).groups()
        if length:
            ctype = ctypes.c_char * int(length)
        elif pointer:
            ctype = ctypes.c_char_p if kind == "char" and name != "critic_text" else ctypes.c_void_p
        else:
            ctype = types[kind]
        fields.append((field, ctype))
    types[name] = structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})

Text, Error, Request, Event = (structs[f"critic_{n}"] for n in ("text", "error", "request", "event"))
kept = []


def text(string):
    data = string.encode()
    kept.append(data)
    return Text(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data))


def string(value):
    return ctypes.string_at(value.data, value.len).decode() if value.len else ""


def check(status, error):
    assert status == constants["CRITIC_OK"], f"{status}: {error.message.decode()}"


lib.critic_version.restype = ctypes.c_char_p
lib.critic_status_name.restype = ctypes.c_char_p
lib.critic_result_critique.restype = Text
for name in ("model_free", "session_free", "result_free", "result_critique", "result_verdict"):
    getattr(lib, f"critic_{name}").argtypes = [ctypes.c_void_p]

number = lib.critic_version_number()
assert number == constants["CRITIC_VERSION_MAJOR"] << 24 | constants["CRITIC_VERSION_MINOR"] << 16
for name in ("CRITIC_OK", "CRITIC_BUSY", "CRITIC_CALLBACK_FAILED"):
    assert lib.critic_status_name(constants[name]).decode() == name

pieces = []


@ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(Event))
def on_event(_, event):
    pieces.append(string(event.contents.text))
    return 0


error = Error()
model, session, result = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
status = lib.critic_model_open(b"nowhere", None, ctypes.byref(model), ctypes.byref(error))
assert status == constants["CRITIC_IO"] and b"nowhere" in error.message
check(lib.critic_model_open(model_path.encode(), None, ctypes.byref(model), ctypes.byref(error)), error)
check(lib.critic_session_new(model, None, ctypes.byref(session), ctypes.byref(error)), error)
request = Request(struct_size=ctypes.sizeof(Request), max_tokens=12)
request.prompt, request.response = text("What is 48 + 24?"), text("48 + 24 = 74")
request.on_event = ctypes.cast(on_event, ctypes.c_void_p)
check(lib.critic_critique(session, ctypes.byref(request), ctypes.byref(result), ctypes.byref(error)), error)
critique = string(lib.critic_result_critique(result))
assert critique and critique == "".join(pieces).strip()
assert lib.critic_result_verdict(result) in (constants["CRITIC_VERDICT_REVISE"], constants["CRITIC_VERDICT_KEEP"])
lib.critic_session_free(session)
lib.critic_model_free(model)
lib.critic_result_free(result)
print(f"libcritic {lib.critic_version().decode()}: {critique}")
