"""What was typed is remembered, privately."""

from __future__ import annotations

from pathlib import Path

from transom.cli.terminal.history import InputHistory


def test_entries_of_several_lines_come_back_in_the_next_conversation(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history"
    first = InputHistory(path)
    for entry in ("one", "two\nlines", "Grüße 🎉"):
        first.add(entry)
    assert InputHistory(path).entries == ["one", "two\nlines", "Grüße 🎉"]


def test_nobody_else_can_read_the_file_or_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history"
    InputHistory(path).add("secret")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    InputHistory(path).add("more")
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    history = InputHistory(None)
    history.add("one")
    assert history.entries == ["one"]
    assert list(tmp_path.iterdir()) == []


def test_a_long_history_is_shortened_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("".join(f'"{number}"\n' for number in range(2001)))
    assert InputHistory(path).entries == [str(number) for number in range(1001, 2001)]
    assert len(path.read_text().splitlines()) == 1000
    assert [each.name for each in tmp_path.iterdir()] == ["history"]


def test_damage_and_places_that_cannot_be_written_are_nobodys_trouble(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_bytes(b'"good"\n{"a": 1}\nnot json\n\xff\xfe\n"better"\n')
    assert InputHistory(path).entries == ["good", "better"]
    for place in (tmp_path, tmp_path / "history" / "below", Path("/dev/null/x")):
        history = InputHistory(place)
        history.add("one")
        assert history.entries == ["one"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("x")
    (tmp_path / "history").symlink_to(target)
    InputHistory(tmp_path / "history").add("one")
    assert target.read_text() == "x"
