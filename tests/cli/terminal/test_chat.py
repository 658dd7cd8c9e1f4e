"""What was said so far."""

from __future__ import annotations

from transom.cli.answers import Asked
from transom.cli.terminal.chat import Chat

SYSTEM = {"role": "system", "content": "Be kind."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def model(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def talked() -> Chat:
    chat = Chat("Be kind.")
    for question, answer in (("one", "1"), ("two", "2")):
        chat.take(chat.asking(question, is_chat=True), answer)
    return chat


def test_a_question_follows_all_that_was_said_and_is_not_said_before_its_answer() -> None:
    chat = talked()
    asked = chat.asking("three", is_chat=True)
    assert asked.messages == (SYSTEM, user("one"), model("1"), user("two"), model("2"), user("three"))
    assert len(chat.messages) == 4


def test_more_of_an_answer_belongs_to_the_same_message() -> None:
    chat = talked()
    asked = chat.going_on(is_chat=True)
    assert asked is not None
    assert asked.continues
    chat.take(asked, " and more")
    assert chat.messages[-1] == model("2 and more")
    assert len(chat.messages) == 4


def test_undo_takes_back_a_question_with_its_answer() -> None:
    chat = talked()
    assert (chat.undo(), chat.messages) == ("two", [user("one"), model("1")])
    assert (chat.undo(), chat.undo()) == ("one", None)
    assert chat.said(is_chat=True) is None


def test_messages_are_left_out_by_their_numbers_with_the_system_message() -> None:
    chat = talked()
    chat.leave_out([1, 2])
    assert chat.with_system(chat.messages) == (SYSTEM, user("two"), model("2"))
    chat = talked()
    chat.system = None
    chat.leave_out([0])
    assert chat.messages == [model("1"), user("two"), model("2")]


def test_clearing_keeps_the_system_message() -> None:
    chat = talked()
    chat.clear()
    assert chat.is_empty
    assert chat.asking("x", is_chat=True).messages == (SYSTEM, user("x"))


def test_a_text_is_continued_by_itself_and_goes_on_with_its_continuation() -> None:
    chat = Chat()
    assert chat.going_on(is_chat=False) is None
    asked = chat.asking("Once", is_chat=False)
    assert asked == Asked(text="Once")
    chat.take(asked, " upon")
    assert chat.going_on(is_chat=False) == Asked(text="Once upon")
    assert chat.asking("Twice", is_chat=False) == Asked(text="Twice")
