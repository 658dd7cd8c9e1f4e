"""Function calls written as JSON objects, `{"name": ..., "arguments": {...}}`, one or a list, read as they come.

A scanner, not a parser of JSON: it looks at each character once, keeps no more than the object it is in, and hands the
arguments on as the model wrote them. What turns out not to be a call is given back as text. A call is told as soon as
its name and the beginning of its arguments are known, whatever their order; that cannot be taken back, so what is wrong
with it behind that is the reader's to find.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from enum import Enum, auto

from transom.llm.chat_events import ArgumentsPiece, CallEnd, CallStart, ChatEvent
from transom.llm.tool_parsers.json_value import SPACE, JsonValue

_OTHER_KEYS = frozenset({"id", "type"})
_MAX_KEY = 1024
"""Characters of a key or a name; whoever writes longer ones calls nothing."""


class Status(Enum):
    """Where the scanner stands."""

    GOING_ON = auto()
    DONE = auto()
    """All calls are read; the character that showed it is not part of them."""
    FAILED = auto()
    """What `unread` holds is no call."""


class _Place(Enum):
    BETWEEN = auto()
    KEY = auto()
    IN_KEY = auto()
    COLON = auto()
    VALUE = auto()
    AFTER_VALUE = auto()


class JsonCalls:
    """One object, several with separators between them, or a list of them. `feed` until the status is another one."""

    def __init__(self, names: Collection[str], argument_keys: Collection[str], *, several: bool) -> None:
        """`names`: the functions there are. `several`: more calls may follow the first, with or without a list."""
        self._names = names
        self._argument_keys = argument_keys
        self._several = several
        self._in_list = False
        self._num_calls = 0
        self._needs_separator = False
        self._place = _Place.BETWEEN
        self._raw: list[str] = []
        self._begin_object()
        self.status = Status.GOING_ON

    @property
    def unread(self) -> str:
        """Text of what is no call, or of one that is not told yet."""
        return "".join(self._raw)

    @property
    def is_at_end(self) -> bool:
        """The text may end here: what was begun is complete, or told."""
        return self._is_told or (self._place is _Place.BETWEEN and self._num_calls > 0)

    def feed(self, text: str) -> tuple[list[ChatEvent], str]:
        """Events, and the part of `text` that is not read because the status changed."""
        events: list[ChatEvent] = []
        position = 0
        while position < len(text) and self.status is Status.GOING_ON:
            if self._place is _Place.VALUE:
                position = self._read_value(text, position, events)
            elif self._take(text[position], events):
                position += 1
        return events, text[position:]

    def _begin_object(self) -> None:
        self._name: str | None = None
        self._has_arguments = False
        self._is_told = False
        self._early: list[str] = []
        self._key = ""
        self._value = JsonValue()
        self._quoted = ""
        self._is_escaped = False

    def _take(self, character: str, events: list[ChatEvent]) -> bool:
        """One character outside of values; False when it is not read."""
        if self._place is _Place.BETWEEN:
            return self._take_between(character)
        if self._place is _Place.COLON and character not in SPACE + ":":
            self._fail(events)
            return False
        if not self._is_told:
            self._raw.append(character)
        if self._place is _Place.IN_KEY:
            self._take_key(character)
        elif character not in SPACE:
            self._take_structure(character, events)
        return True

    def _take_between(self, character: str) -> bool:
        is_first = self._num_calls == 0
        if character == "{" and not self._needs_separator and (self._several or is_first):
            self._begin_object()
            self._place = _Place.KEY
        elif character == "[" and not self._in_list and is_first:
            self._in_list = True
        elif character in ",;" and self._needs_separator and self._several:
            self._needs_separator = False
        elif character == "]" and self._in_list and self._needs_separator:
            self._raw.clear()
            self._place = _Place.AFTER_VALUE
            self.status = Status.DONE
            return True
        elif character not in SPACE:
            self.status = Status.DONE if self._needs_separator else Status.FAILED
            return False
        self._raw.append(character)
        return True

    def _take_structure(self, character: str, events: list[ChatEvent]) -> None:
        match self._place, character:
            case _Place.KEY, '"':
                self._place, self._key, self._is_escaped = _Place.IN_KEY, "", False
            case _Place.COLON, ":":
                self._place, self._value = _Place.VALUE, JsonValue()
                self._quoted = ""
            case _Place.AFTER_VALUE, ",":
                self._place = _Place.KEY
            case _Place.AFTER_VALUE, "}":
                self._end_object(events)
            case _:
                self._fail(events)

    def _take_key(self, character: str) -> None:
        if character != '"' or self._is_escaped:
            self._is_escaped = character == "\\" and not self._is_escaped
            self._key += character
            if len(self._key) > _MAX_KEY and not self._is_told:
                self.status = Status.FAILED
            return
        self._place, self._key = _Place.COLON, _string(self._key) or ""
        if self._key != "name" and self._key not in self._argument_keys and self._key not in _OTHER_KEYS:
            self.status = self.status if self._is_told else Status.FAILED
        if self._key in self._argument_keys and self._has_arguments:
            self._key = ""  # the first ones count

    def _read_value(self, text: str, start: int, events: list[ChatEvent]) -> int:
        """Reads on within a value, or up to it; the position behind what was read."""
        begin = start
        if not self._quoted:
            while begin < len(text) and text[begin] in SPACE:
                begin += 1
        end = self._value.feed(text, begin)
        if not self._is_told:
            self._raw.append(text[start:end])
        if begin < end:
            self._take_piece(text[begin:end], events)
        if self._value.is_complete and self.status is Status.GOING_ON:
            self._place = _Place.AFTER_VALUE
            if self._key == "name" and not self._is_told:
                self._take_name(events)
        return end

    def _take_piece(self, piece: str, events: list[ChatEvent]) -> None:
        """More of a value, and whether it may be that of its key."""
        is_first, self._quoted = not self._quoted, self._quoted or piece[0]
        if self._key in self._argument_keys:
            self._has_arguments = True
            if is_first and piece[0] != "{":
                self._fail(events)
            else:
                self._hand_on(piece, events)
        elif self._key == "name" and not self._is_told:
            self._quoted = piece if is_first else self._quoted + piece
            if self._quoted[0] != '"' or len(self._quoted) > _MAX_KEY or self._name is not None:
                self.status = Status.FAILED

    def _hand_on(self, piece: str, events: list[ChatEvent]) -> None:
        """More of the arguments: told, or kept until the name is known."""
        if self._is_told:
            events.append(ArgumentsPiece(piece))
        elif self._name is not None:
            self._tell(self._name, piece, events)
        else:
            self._early.append(piece)

    def _take_name(self, events: list[ChatEvent]) -> None:
        self._name = _string(self._quoted[1:-1])
        if self._name is None or self._name not in self._names:
            self.status = Status.FAILED
        elif self._has_arguments:
            self._tell(self._name, "".join(self._early), events)

    def _tell(self, name: str, arguments: str, events: list[ChatEvent]) -> None:
        """From now on it is a call."""
        events += [CallStart(name), ArgumentsPiece(arguments)]
        self._raw.clear()
        self._early.clear()
        self._is_told = True

    def _end_object(self, events: list[ChatEvent]) -> None:
        if not self._is_told and self._name is not None:
            self._tell(self._name, "{}", events)
        if not self._is_told:
            self.status = Status.FAILED
            return
        self._end_call(events)

    def _end_call(self, events: list[ChatEvent]) -> None:
        events.append(CallEnd())
        self._num_calls += 1
        self._is_told = False
        self._place, self._needs_separator = _Place.BETWEEN, True

    def _fail(self, events: list[ChatEvent]) -> None:
        """Rubbish where JSON goes on: no call, or the end of one that was told."""
        if self._is_told:
            self._end_call(events)
            self.status = Status.DONE
        else:
            self.status = Status.FAILED


def _string(escaped: str) -> str | None:
    """What stands between the quotes of a JSON string; None if that is no string."""
    try:
        value = json.loads(f'"{escaped}"', strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
