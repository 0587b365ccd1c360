"""YAML that remembers where each value stands, and refuses what would change meaning without a word.

Refused: duplicate keys, anchors and aliases, tags, merge keys, several documents, keys that are no scalars. Scalars are
read as in YAML 1.2: only `true` and `false` are booleans, `no` is text, `1e3` is a number and `012` is twelve.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from promptmill.pipeline.jobfile.document import Document, FieldPath, Finding, Place, printable
from promptmill.pipeline.jobfile.yaml_scalars import MAX_DIGITS, is_number, plain_value, quoted_value

MAX_DEPTH: Final = 32
"""A job is five levels deep; the limit keeps hostile nesting away from Python's recursion limit."""
MAX_EVENTS: Final = 40_000
"""Keys, values and brackets; PyYAML reads about as many in a second."""


def read_document(text: str, name: str) -> Document:
    """Never raises: what is wrong stands in `findings`."""
    return _Reader(text, name).read()


def read_value(text: str, origin: str, order: int) -> Document:
    """A value from the command line: flow or quoted YAML where it begins with one of `[{"'`, else one plain scalar."""
    reader = _Reader(text.strip(), origin, order)
    return reader.read() if text.strip()[:1] in tuple("[{\"'") else reader.read_plain()


_CONTROL: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SYNTAX_HINTS: Final = (
    ("escape", "In double quotes a backslash begins an escape; use single quotes or two backslashes."),
    ("quoted scalar", "The quote that begins here is not closed."),
    ("flow", "Brackets need commas between their items and a closing bracket."),
    ("mapping values", 'Text that contains ": " needs quotes; keys of one section stand in one column.'),
    ("<block end>", "The indentation differs from the lines above, or a quote or bracket ended too early."),
    ("could not find expected ':'", "A key needs a colon and a space after it."),
    ("cannot start any token", "Text that begins with this character needs quotes."),
)

_ALIAS_HINT: Final = "Anchors and aliases are not read here; write the value out."


class _Stop(Exception):
    """Nothing behind this point can be read; the finding is on the list."""


class _Reader:
    def __init__(self, text: str, origin: str, order: int = 0) -> None:
        self.text, self.origin, self.order = text, origin, order
        self.document = Document()

    def read(self) -> Document:
        try:
            self._check_characters()
            self._read_stream(self._events())
        except _Stop:
            self.document.readable = False
        except yaml.MarkedYAMLError as error:
            self._refuse_syntax(error)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # "\UFFFFFFFF" in double quotes reaches chr() unchecked.
            place = Place(self.order, 1, 1, self.origin)
            self._refuse(place, (), "YAML", f"a syntax error: {printable(str(error), 200)}")
            self.document.readable = False
        return self.document

    def read_plain(self) -> Document:
        try:
            self._check_characters()
            self.document.data = self._scalar(self.text, True, self._place(None), ())
        except _Stop:
            self.document.readable = False
        return self.document

    def _place(self, mark: Any) -> Place:
        if self.order or mark is None:
            return Place(self.order, 0, 0, self.origin)
        return Place(0, mark.line + 1, mark.column + 1, self.origin)

    def _refuse(self, place: Place, path: FieldPath, expected: str, got: str, hint: str = "") -> None:
        self.document.findings.append(Finding(place, path, expected, got, hint))

    def _check_characters(self) -> None:
        found = _CONTROL.search(self.text)
        if found is None:
            return
        before = self.text[: found.start()]
        place = Place(self.order, before.count("\n") + 1, found.start() - before.rfind("\n"), self.origin)
        hint = "Remove it; within double quotes it can be written as an escape."
        self._refuse(place, (), "text", f"the control character {printable(found[0])}", hint)
        raise _Stop

    def _refuse_syntax(self, error: yaml.MarkedYAMLError) -> None:
        self.document.readable = False
        problem = error.problem or error.context or "not YAML"
        advice = next((text for sign, text in _SYNTAX_HINTS if sign in f"{error.context} {problem}"), "")
        # What was never closed or finished is shown where it begins; PyYAML notices only further down.
        begins = "stream" in problem or "could not find" in problem
        place = self._place((error.context_mark if begins else None) or error.problem_mark)
        lines = self.text.splitlines()
        line = lines[place.line - 1] if 0 < place.line <= len(lines) else ""
        if "\t" in line[: len(line) - len(line.lstrip())] or line[place.column - 1 : place.column] == "\t":
            self._refuse(place, (), "spaces for indentation", "a tab", "Replace tabs by spaces.")
            return
        column = f" at column {place.column}" if place.line else ""
        self._refuse(place, (), "YAML", f"a syntax error{column}: {printable(problem, 200)}", advice)

    def _events(self) -> Iterator[yaml.Event]:
        for number, event in enumerate(yaml.parse(self.text, Loader=yaml.SafeLoader)):
            if number > MAX_EVENTS:
                place = self._place(event.start_mark)
                self._refuse(
                    place, (), f"at most {MAX_EVENTS // 2} values", "more", "A job names its data, it does not hold it."
                )
                raise _Stop
            yield event

    def _read_stream(self, events: Iterator[yaml.Event]) -> None:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.document.data = self._value(events, next(events), (), 0)
                break
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                hint = "Put each job into a file of its own."
                self._refuse(self._place(event.start_mark), (), "one job", "a second YAML document", hint)
                break

    def _value(self, events: Iterator[yaml.Event], event: yaml.Event, path: FieldPath, depth: int) -> Any:
        place = self._place(event.start_mark)
        self.document.values.setdefault(path, place)
        if depth > MAX_DEPTH:
            self._refuse(place, path[:3], f"at most {MAX_DEPTH} levels", "deeper nesting")
            raise _Stop
        if isinstance(event, yaml.AliasEvent):
            self._refuse(place, path, "a value", f"the alias *{printable(str(event.anchor))}", _ALIAS_HINT)
            self.document.broken.add(path)
            return None
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            self._refuse(place, path, "a value", f"the anchor &{printable(event.anchor)}", _ALIAS_HINT)
        tag = getattr(event, "tag", None)
        if tag is not None:
            hint = "Remove it; use quotes to make a value text."
            self._refuse(place, path, "a value without a tag", f"the tag {printable(tag)}", hint)
            self.document.broken.add(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path, depth)
        assert isinstance(event, yaml.ScalarEvent)
        return self._scalar(event.value, not event.style, place, path)

    def _scalar(self, text: str, is_plain: bool, place: Place, path: FieldPath) -> Any:
        self.document.values.setdefault(path, place)
        if is_plain:
            self.document.plain.setdefault(path, text)
            if len(text) <= MAX_DIGITS or not is_number(text):
                return plain_value(text)
            self._refuse(place, path, f"a number of at most {MAX_DIGITS} digits", f"{len(text)} digits")
        elif (quoted := quoted_value(text)) is not None:
            return quoted
        else:
            hint = "Remove NUL characters and lone surrogates."
            self._refuse(place, path, "Unicode text", printable(repr(text)), hint)
        self.document.broken.add(path)
        return None

    def _sequence(self, events: Iterator[yaml.Event], path: FieldPath, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._value(events, event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, events: Iterator[yaml.Event], path: FieldPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(events, event, path, depth)
            below = (*path, "" if key is None else key)
            first = self.document.keys.get(below)
            if key is not None and key not in result:
                self.document.keys[below] = self._place(event.start_mark)
            value = self._value(events, next(events), below, depth + 1)
            if key is not None and key in result and first:
                got = f"a second one; the first is on line {first.line}" if first.line else "a second one"
                self._refuse(self._place(event.start_mark), below, "each key once", got, "Remove one of the two.")
            elif key is not None:
                result[key] = value
        return result

    def _key(self, events: Iterator[yaml.Event], event: yaml.Event, path: FieldPath, depth: int) -> str | None:
        """The text of the key, whatever it looks like; None where it is no key that we read."""
        place = self._place(event.start_mark)
        if isinstance(event, yaml.ScalarEvent) and event.anchor is None and event.tag is None:
            if event.value == "<<" and not event.style:
                self._refuse(place, path, "plain keys", "the merge key <<", "Write the fields out.")
                return None
            if (name := quoted_value(event.value)) is not None:
                return name
        what = "a list or mapping as a key" if isinstance(event, yaml.CollectionStartEvent) else "a key of another kind"
        self._refuse(place, path, "plain keys", what, "Keys are names of fields, without anchors, aliases or tags.")
        self._skip(events, event)
        return None

    def _skip(self, events: Iterator[yaml.Event], event: yaml.Event) -> None:
        level = 0
        while True:
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if level == 0:
                return
            event = next(events)
