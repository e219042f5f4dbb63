// The client half of critic: what is asked of the server, and what it answers. It knows the
// protocol and nothing of an editor, so that it runs under Node as well.

export interface Position {
  line: number;
  character: number;
}

export interface Range {
  start: Position;
  end: Position;
}

/** What a command is about. */
export type About =
  | { uri: string; scope: 'document' }
  | { uri: string; scope: 'function'; position: Position }
  | { uri: string; scope: 'selection'; range: Range };

export interface Finding {
  range: Range;
  quote: string;
  message: string;
  severity: 'note' | 'warning' | 'error';
  replacement: string | null;
}

export interface Critique {
  findings: Finding[];
  /** Whether no critique was cut off. */
  complete: boolean;
}

export interface Refinement {
  id: number;
  uri: string;
  range: Range;
  original: string;
  refinement: string;
  critique: string;
  accepted: boolean;
  changed: boolean;
}

/** Text as it is written. */
export interface Stream {
  uri: string;
  phase: string;
  text: string;
}

/** What carries messages: a language client, or a bare connection. */
export interface Connection {
  sendRequest<R>(method: string, params: unknown, token?: unknown): Promise<R>;
  onNotification(method: string, handler: (params: Stream) => void): { dispose(): void };
}

export class Critic {
  constructor(private readonly connection: Connection) {}

  critique(about: About, token?: unknown): Promise<Critique> {
    return this.execute('critic.critique', about, token);
  }

  refine(about: About, token?: unknown): Promise<Refinement> {
    return this.execute('critic.refine', about, token);
  }

  /** Takes a refinement. Refused if the document has changed since it was written. */
  async apply(refinement: Refinement): Promise<boolean> {
    const { uri, id } = refinement;
    return (await this.execute<{ applied: boolean }>('critic.applyRefinement', { uri, id })).applied;
  }

  discard(uri: string): Promise<void> {
    return this.execute('critic.discardRefinement', { uri });
  }

  clear(uri: string): Promise<void> {
    return this.execute('critic.clear', { uri });
  }

  onStream(handler: (stream: Stream) => void): { dispose(): void } {
    return this.connection.onNotification('critic/stream', handler);
  }

  private execute<R>(command: string, argument: object, token?: unknown): Promise<R> {
    const params = { command, arguments: [argument] };
    return token === undefined
      ? this.connection.sendRequest<R>('workspace/executeCommand', params)
      : this.connection.sendRequest<R>('workspace/executeCommand', params, token);
  }
}

/** The word for a number of findings. */
export function summary(critique: Critique): string {
  const count = critique.findings.length;
  return count === 0 ? 'nothing needs to change' : count === 1 ? '1 finding' : `${count} findings`;
}
