"""Where a JSON value ends, in text that comes in pieces. Looks at each character once; checks nothing but balance."""

from __future__ import annotations

SPACE = " \t\r\n"


class JsonValue:
    """One value: an object or list to its last bracket, a string to its quote, all else to what cannot be of it."""

    def __init__(self) -> None:
        self.is_complete = False
        self._has_begun = False
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def feed(self, text: str, start: int = 0) -> int:
        """Reads on from `start`; the position behind what belongs to the value."""
        position = start
        while position < len(text) and not self.is_complete:
            character = text[position]
            if self._in_string:
                self._read_in_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif self._depth == 0 and self._has_begun and (character in ",;}]" or character in SPACE):
                self.is_complete = True
                return position
            elif character in "}]":
                self._depth -= 1
                self.is_complete = self._depth <= 0
            self._has_begun = True
            position += 1
        return position

    def _read_in_string(self, character: str) -> None:
        if character == '"' and not self._is_escaped:
            self._in_string = False
            self.is_complete = self._depth == 0
        self._is_escaped = character == "\\" and not self._is_escaped
