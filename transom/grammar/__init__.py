"""Room 7: text of a prescribed form. What the form is, whether it can be had, and which tokens it allows next.

    structure    what callers may prescribe: JSON schema, regular expression, choice, Lark or GBNF grammar
    compiler     structure -> `GrammarSpec`, checked in a helper process that may die over it (`process` is its script)
    vocabulary   a model's tokens as the `llguidance` library wants them; the limits of what a grammar may cost
    matcher      a grammar over one sequence: allowed tokens, and whether the text is complete

Everything is said in bytes of tokens; knows no logits, no batch, no HTTP. This file imports nothing, for the helper
process imports it.
"""
