"""A conversation in a terminal: what is typed, what is shown, and what was said so far.

`Conversation` is the loop, `commands` what begins with a slash, `Chat` what was said; a `LineReader` reads, a `Screen`
shows, and `models` load. Knows models by `transom.cli.answers` only.
"""
