// The client half against the real server, under Node. CRITIC is the program, MODEL a model.

import * as assert from 'node:assert';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import * as rpc from 'vscode-jsonrpc/node';

import { Critic, summary } from '../src/critic';

const TEXT = '# Títle 👍\r\n\r\n\tA 👩‍👧 naïve cat 日本語 sat;\tthe cat slept.\r\n🚀🚀 It it was good, "quoted" and \\ escaped.\r\n';
const URI = 'file:///nowhere/note.md';
const LONG = 'file:///nowhere/long.md';

/** The text of a range in UTF-16, as VS Code counts. */
function words(range: { start: { line: number; character: number }; end: { line: number; character: number } }): string {
  const lines = TEXT.split('\r\n');
  const offset = (at: { line: number; character: number }) =>
    lines.slice(0, at.line).reduce((sum, line) => sum + line.length + 2, 0) + at.character;
  return TEXT.slice(offset(range.start), offset(range.end));
}

test('the client half against the real server', { timeout: 300_000 }, async (context) => {
  const [program, model] = [process.env.CRITIC!, process.env.MODEL!];
  const server = spawn(program, ['lsp', '--model', model, '--threads', '1'], { stdio: ['pipe', 'pipe', 'inherit'] });
  // Node does not end while it has a child, whatever the test has come to.
  context.after(() => void server.kill());
  const ended = once(server, 'exit');
  const connection = rpc.createMessageConnection(
    new rpc.StreamMessageReader(server.stdout),
    new rpc.StreamMessageWriter(server.stdin),
  );
  const published: { diagnostics: { range: never; message: string }[] }[] = [];
  const edits: { edit: { documentChanges: { textDocument: { version: number }; edits: object[] }[] } }[] = [];
  const progress: string[] = [];
  connection.onNotification('textDocument/publishDiagnostics', (params) => void published.push(params));
  connection.onNotification('$/progress', (params) => void progress.push(params.value.kind));
  connection.onRequest('workspace/applyEdit', (params) => {
    edits.push(params);
    return { applied: true };
  });
  connection.onRequest('window/workDoneProgress/create', () => null);
  connection.onRequest('workspace/configuration', () => [{ maxTokens: 200, stream: true }]);
  connection.listen();
  const capabilities = {
    workspace: { configuration: true, workspaceEdit: { documentChanges: true } },
    window: { workDoneProgress: true },
  };
  const initialized = await connection.sendRequest<{ capabilities: { positionEncoding: string } }>('initialize', {
    processId: process.pid,
    rootUri: null,
    capabilities,
    initializationOptions: { stream: true },
  });
  assert.equal(initialized.capabilities.positionEncoding, 'utf-16');
  await connection.sendNotification('initialized', {});
  await connection.sendNotification('textDocument/didOpen', {
    textDocument: { uri: URI, languageId: 'markdown', version: 1, text: TEXT },
  });
  const critic = new Critic(connection);
  let streamed = '';
  critic.onStream((stream) => (streamed += stream.text));

  const critique = await critic.critique({ uri: URI, scope: 'document' });
  assert.ok(critique.findings.length > 0, 'there are findings');
  assert.match(summary(critique), /finding/);
  assert.ok(streamed.startsWith('['), streamed);
  for (const finding of critique.findings) assert.equal(words(finding.range), finding.quote);
  const last = published.at(-1)!;
  assert.equal(last.diagnostics.length, critique.findings.length);
  assert.ok(progress.includes('begin') && progress.includes('end'));

  // Seconds of work, so that it is not done when the server hears that it was not wanted. The numbers are there because
  // parts that are alike are critiqued once.
  const long = Array.from({ length: 2000 }, (_, n) => `${n} ${TEXT}`).join('');
  await connection.sendNotification('textDocument/didOpen', {
    textDocument: { uri: LONG, languageId: 'markdown', version: 1, text: long },
  });
  const cancelled = new rpc.CancellationTokenSource();
  const asked = critic.critique({ uri: LONG, scope: 'document' }, cancelled.token);
  cancelled.cancel();
  await assert.rejects(asked, { code: -32800 });

  const refinement = await critic.refine({ uri: URI, scope: 'document' });
  assert.equal(refinement.original, TEXT);
  assert.ok(refinement.changed);
  assert.equal(await critic.apply(refinement), true);
  assert.equal(edits[0].edit.documentChanges[0].textDocument.version, 1);
  await connection.sendNotification('textDocument/didChange', {
    textDocument: { uri: URI, version: 2 },
    contentChanges: [{ text: 'other' }],
  });
  await assert.rejects(critic.apply(refinement), /has changed/);

  await connection.sendRequest('shutdown');
  await connection.sendNotification('exit');
  assert.deepEqual(await ended, [0, null]);
  connection.dispose();
});
