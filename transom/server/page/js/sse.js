// Server-sent events of a fetched answer. Knows the format and nothing of what is said in it.

/**
 * The data of each event, until the stream ends. Comments, which are the server's sign of life, are left out.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const pieces = rest.split("\n\n");
      rest = pieces.pop() ?? "";
      for (const piece of pieces) {
        const lines = piece.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
