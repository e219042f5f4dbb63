// critic in VS Code: starts the server, and shows what it says.

import * as vscode from 'vscode';
import { LanguageClient, LanguageClientOptions, ServerOptions, State } from 'vscode-languageclient/node';

import { About, Critic, summary } from './critic';

let client: LanguageClient | undefined;

export async function activate(context: vscode.ExtensionContext): Promise<void> {
  const output = vscode.window.createOutputChannel('critic');
  const proposals = new Map<string, string>();
  const settings = vscode.workspace.getConfiguration('critic');
  const server: ServerOptions = { command: settings.get<string>('path') ?? 'critic', args: ['lsp'] };
  const options: LanguageClientOptions = {
    documentSelector: [{ scheme: 'file' }, { scheme: 'untitled' }],
    outputChannel: output,
    initializationOptions: { stream: true },
    synchronize: { configurationSection: 'critic' },
    middleware: {
      // Text is streamed to the output, whatever the settings say.
      workspace: {
        configuration: async (params, token, next) => {
          const values = await next(params, token);
          return Array.isArray(values) ? values.map((value) => ({ ...value, stream: true })) : values;
        },
      },
    },
  };
  client = new LanguageClient('critic', 'critic', server, options);
  context.subscriptions.push(
    output,
    vscode.workspace.registerTextDocumentContentProvider('critic', {
      provideTextDocumentContent: (uri) => proposals.get(uri.toString()) ?? '',
    }),
  );
  try {
    await client.start();
  } catch (error) {
    void vscode.window.showErrorMessage(`critic does not start: ${error}. Set critic.path to the program.`);
    return;
  }
  const running = client;
  const critic = new Critic({
    sendRequest: (method, params, token) =>
      token ? running.sendRequest(method, params, token as vscode.CancellationToken) : running.sendRequest(method, params),
    onNotification: (method, handler) => running.onNotification(method, handler),
  });
  let phase = '';
  context.subscriptions.push(
    critic.onStream((stream) => {
      if (stream.phase !== phase) {
        phase = stream.phase;
        output.append(`\n── ${phase}\n`);
      }
      output.append(stream.text);
    }),
  );

  const command = (name: string, work: (editor: vscode.TextEditor) => Promise<void>) =>
    context.subscriptions.push(
      vscode.commands.registerCommand(name, async () => {
        const editor = vscode.window.activeTextEditor;
        if (!editor || running.state !== State.Running) return;
        try {
          await work(editor);
        } catch (error) {
          if (!isCancelled(error)) void vscode.window.showErrorMessage(`critic: ${(error as Error).message}`);
        }
      }),
    );
  const critique = (about: About) =>
    busy('Critique', async (token) => {
      const done = await critic.critique(about, token);
      vscode.window.setStatusBarMessage(`critic: ${summary(done)}`, 5000);
    });
  command('critic.here', (editor) => critique(here(editor)));
  command('critic.document', (editor) => critique({ uri: uri(editor), scope: 'document' }));
  command('critic.forget', (editor) => critic.clear(uri(editor)));
  command('critic.refineHere', (editor) =>
    busy('Refinement', async (token) => {
      const refinement = await critic.refine(here(editor), token);
      if (!refinement.changed) {
        vscode.window.setStatusBarMessage('critic: nothing needs to change', 5000);
        return;
      }
      const document = editor.document;
      const range = running.protocol2CodeConverter.asRange(refinement.range);
      const text = document.getText();
      const [start, end] = [document.offsetAt(range.start), document.offsetAt(range.end)];
      const proposal = vscode.Uri.parse(`critic:${document.uri.path}?${refinement.id}`);
      proposals.set(proposal.toString(), text.slice(0, start) + refinement.refinement + text.slice(end));
      await vscode.commands.executeCommand('vscode.diff', document.uri, proposal, 'Refinement');
      const answer = await vscode.window.showInformationMessage('Take this refinement?', 'Take', 'Leave');
      proposals.delete(proposal.toString());
      await vscode.commands.executeCommand('workbench.action.closeActiveEditor');
      if (answer === 'Take') await critic.apply(refinement);
      else await critic.discard(refinement.uri);
    }),
  );
  context.subscriptions.push(vscode.commands.registerCommand('critic.showOutput', () => output.show()));
}

export async function deactivate(): Promise<void> {
  await client?.stop();
}

function uri(editor: vscode.TextEditor): string {
  return client!.code2ProtocolConverter.asUri(editor.document.uri);
}

/** The selection, or the function at the cursor. */
function here(editor: vscode.TextEditor): About {
  const converter = client!.code2ProtocolConverter;
  const selection = editor.selection;
  return selection.isEmpty
    ? { uri: uri(editor), scope: 'function', position: converter.asPosition(selection.active) }
    : { uri: uri(editor), scope: 'selection', range: converter.asRange(selection) };
}

async function busy(title: string, work: (token: vscode.CancellationToken) => Promise<void>): Promise<void> {
  const options = { location: vscode.ProgressLocation.Window, title, cancellable: true };
  await vscode.window.withProgress(options, (_, token) => work(token));
}

/** By the person, by an edit, or by a newer request. */
function isCancelled(error: unknown): boolean {
  return [-32800, -32801, -32802].includes((error as { code?: number }).code ?? 0);
}
