"""What each family's answers are read as, wherever the text is cut; and what is no call, but only looks like one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.llm.reading import Read, read
from transom.llm.tool_parsers import FORMATS

NAMES = {"f", "g", "get_weather"}
F, G = ("f", '{"a": 1}'), ("g", "{}")

ANSWERS: list[tuple[str, str, Read]] = [
    (
        "hermes",
        'Hi.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>\n',
        Read("Hi.", calls=[F, G], num_complete=2),
    ),
    (
        "hermes",
        '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call> bye',
        Read(" bye", calls=[F], num_complete=1),
    ),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', Read(calls=[("f", "{}")], num_complete=1)),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"s": "}]\\"</tool_call>{"}}</tool_call>',
        Read(calls=[("f", '{"s": "}]\\"</tool_call>{"}')], num_complete=1),
    ),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": [1', Read(calls=[("f", '{"a": [1')])),
    ("hermes", '<tool_call>{"name": "f", "arg', Read('<tool_call>{"name": "f", "arg')),
    ("hermes", '<tool_call><tool_call>{"name": "g"}</tool_call>', Read("<tool_call>", calls=[G], num_complete=1)),
    ("hermes", "2 <tool_ 3 < 4\n", Read("2 <tool_ 3 < 4\n")),
    ("hunyuan", f'<tool_calls>[{{"name": "f", "arguments": {F[1]}}}]</tool_calls>', Read(calls=[F], num_complete=1)),
    ("llama3_json", '{"name": "f", "parameters": {"a": 1}}', Read(calls=[F], num_complete=1)),
    (
        "llama3_json",
        '\n<|python_tag|>{"type": "function", "name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
        Read(calls=[F, G], num_complete=2),
    ),
    ("llama3_json", '{"answer": {"name": "f"}}', Read('{"answer": {"name": "f"}}')),
    ("llama3_json", 'It is {"name": "f", "parameters": {}}', Read('It is {"name": "f", "parameters": {}}')),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "123456789"}, {"name": "g", "arguments": {}}]',
        Read(calls=[F, G], num_complete=2),
    ),
    ("mistral_named", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]1[ARGS]{}', Read(calls=[F, G], num_complete=2)),
    ("mistral_named", "x [TOOL_CALLS]h[ARGS]{} y", Read("x [TOOL_CALLS]h[ARGS]{} y")),
    (
        "pythonic",
        "<|tool_call_start|>[f(a=-1, b='x\"', c=[1, true, None], d={'k': 2.5}), g()]<|tool_call_end|>So.",
        Read("So.", calls=[("f", '{"a": -1, "b": "x\\"", "c": [1, true, null], "d": {"k": 2.5}}'), G], num_complete=2),
    ),
    ("pythonic", "<|tool_call_start|>[f(a=1)]", Read(calls=[F], num_complete=1)),
    ("pythonic", "<|tool_call_start|>[f(a=1", Read("<|tool_call_start|>[f(a=1")),
    ("pythonic", "<|tool_call_start|>[f(1)]<|tool_call_end|>", Read("<|tool_call_start|>[f(1)]<|tool_call_end|>")),
    (
        "json",
        ' [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
        Read(calls=[F, G], num_complete=2),
    ),
    ("json", '{"name": "f", "arguments": {"a": 1}}', Read(calls=[F], num_complete=1)),
    ("json", "[1, 2]", Read("[1, 2]")),
    ("json", "\n\n plain ", Read("\n\n plain ")),
]

NO_CALLS = [
    '{"name": "nobody", "X": {}}',
    '{"name": "f", "X": "text"}',
    '{"name": "f", "X": [1]}',
    '{"name": ["f"], "X": {}}',
    '{"name": "f", "name": "g", "X": {}}',
    '{"X": {}}',
    "{}",
    "{",
    '{"name": "' + "f" * 2000,
    '{"' + "k" * 2000 + '": 1}',
    '{"\\ud800": 1}',
]


@pytest.mark.parametrize(("name", "text", "answer"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_is_read_as_what_it_is_wherever_it_is_cut(name: str, text: str, answer: Read) -> None:
    assert read(FORMATS[name].parser(NAMES), text) == answer
    assert read(FORMATS[name].parser(NAMES), text, range(len(text))) == answer
    for cut in range(1, len(text)):
        assert read(FORMATS[name].parser(NAMES), text, [cut]) == answer


@pytest.mark.parametrize("body", NO_CALLS, ids=range(len(NO_CALLS)))
@pytest.mark.parametrize(
    ("name", "layout", "key"),
    [
        ("hermes", "<tool_call>{}</tool_call>", "arguments"),
        ("llama3_json", "{}", "parameters"),
        ("mistral", "[TOOL_CALLS] [{}]", "arguments"),
        ("hunyuan", "<tool_calls>{}</tool_calls>", "arguments"),
        ("json", "{}", "arguments"),
    ],
)
def test_what_is_no_call_stays_text(name: str, layout: str, key: str, body: str) -> None:
    text = layout.replace("{}", body.replace('"X"', f'"{key}"'))
    assert read(FORMATS[name].parser(NAMES), text) == Read(text)
    assert read(FORMATS[name].parser(NAMES), text, range(len(text))) == Read(text)


PIECES = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tool_calls>", "</tool_calls>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"),
        *("<|tool_call_start|>", "<|tool_call_end|>", '{"name": "f", ', '"arguments": ', '"parameters": ', "f(a=1)"),
        *('{"a": 1}', "{", "}", "[", "]", ",", ";", '"', "\\", " ", "\n", "x", '"name"', ":", "f", "é", "<", "{}"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.lists(PIECES, max_size=25), st.data())
def test_hostile_text_is_read_the_same_wherever_it_is_cut(name: str, pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    whole = read(FORMATS[name].parser(NAMES), text)
    assert read(FORMATS[name].parser(NAMES), text, cuts) == whole
    assert {called for called, _ in whole.calls} <= NAMES


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize(
    "unit", ["<tool_call>", "[TOOL_CALLS]", " ", '[TOOL_CALLS] [{"name": "', "{", "<|tool_call_start|>[f(a=", "["]
)
def test_long_hostile_text_takes_time_in_proportion(name: str, unit: str) -> None:
    started = time.process_time()
    read(FORMATS[name].parser(NAMES), unit * 4000, range(0, 4000 * len(unit), 7))
    assert time.process_time() - started < 2  # a quadratic reader takes much longer


def test_ids_of_calls_differ_and_have_the_form_that_templates_want() -> None:
    for tool_format in FORMATS.values():
        first, second = tool_format.call_id(), tool_format.call_id()
        assert first != second
    assert FORMATS["mistral"].call_id().isalnum()
    assert len(FORMATS["mistral"].call_id()) == 9
    assert FORMATS["hermes"].call_id().startswith("call_")
