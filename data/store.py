"""Examples copied once into a file that can be read at random, for sources that are streams.

A stream has no example number 7 until six have gone by, and sampling asks for number 7 alone. A
store is one ArrayRecord file beside a `store.json` that says what an example looks like; the latter
is written last, so that a directory that holds one is whole. Promises: what is read is what was
added, to the last bit and in its order; a store is never added to or overwritten.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.schema.errors import UserError
from data.example_codec import (
    LENGTH,
    Form,
    decoded,
    encoded,
    form_of,
    from_card,
    in_words,
    packed,
    taken_apart,
    to_card,
)

_CARD = "store.json"
_RECORDS = "examples.array_record"
# One record a chunk: anything else would read its neighbours along with it.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclass(frozen=True)
class ExampleStore:
    """The examples of a directory: item i is example i, a nest as it was added.

    Attributes:
        directory: Where they lie.
        count: How many there are.
        template: Nest of leaf numbers in place of arrays.
        leaves: (dtype name, shape) of each leaf.
        digest: BLAKE2b of all examples in their order.
        origin: What the writer said they are.
    """

    directory: Path
    count: int
    template: Any
    leaves: tuple[Form, ...]
    digest: str
    origin: str
    _records: Any = field(repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> Any:
        if not 0 <= position < self.count:
            raise IndexError(position)
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Returns the examples at these positions, in that order.

        Raises:
            UserError: A file is gone or cannot be read.
        """
        try:
            records = self._records.__getitems__(positions)
        except (OSError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{self.directory}: cannot be read ({reason})") from error
        return [packed(self.template, decoded(record, self.leaves)) for record in records]


def open_store(directory: str | Path) -> ExampleStore:
    """Opens a store that is there.

    Raises:
        UserError: There is none, or it is damaged.
    """
    folder = Path(directory).expanduser()
    if not (folder / _CARD).is_file():
        raise UserError(f"{folder}: holds no stored examples (it has no {_CARD}).")
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
        records = ArrayRecordDataSource(str(folder / _RECORDS)) if card["count"] else ()
        whole = len(records) == card["count"]
        leaves = tuple((dtype, tuple(shape)) for dtype, shape in card["leaves"])
        store = ExampleStore(
            folder,
            card["count"],
            from_card(card["template"]),
            leaves,
            card["digest"],
            card["origin"],
            records,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: its stored examples are damaged ({error}).") from error
    if not whole:
        raise UserError(
            f"{folder}: holds {len(records)} examples, and {card['count']} were stored."
        )
    return store


class StoreWriter:
    """Adds examples to a new store; a context, which leaves nothing unfinished behind.

    Args:
        directory: A directory of its own, made if need be.
        origin: What is stored, for those who find it.
        again: Compare with the store that is there, of the same origin, instead of writing.

    Raises:
        UserError: The directory holds a store already, or another one than `again` expects.
    """

    def __init__(self, directory: str | Path, origin: str = "", *, again: bool = False):
        self.directory = Path(directory).expanduser()
        self._origin, self._count = origin, 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._template: Any = None
        self._leaves: tuple[Form, ...] | None = None
        self._there = None
        self._partial = self.directory / f"{_RECORDS}.{uuid.uuid4().hex}.partial"
        self._writer: Any = None
        if (self.directory / _CARD).exists():
            self._there = open_store(self.directory)
            if not again or self._there.origin != origin:
                raise UserError(
                    f"{self.directory}: holds {self._there.count} stored examples already"
                    + (f" ({self._there.origin})" if self._there.origin else "")
                    + ". Name another directory, or remove it."
                )

    def __enter__(self) -> StoreWriter:
        if self._there is None:
            from array_record.python.array_record_module import ArrayRecordWriter

            self.directory.mkdir(parents=True, exist_ok=True)
            self._writer = ArrayRecordWriter(str(self._partial), _WRITER_OPTIONS)
        return self

    def add(self, example: Any) -> None:
        """Adds an example: a nest of dicts, tuples and lists of arrays, numbers, text or bytes.

        Raises:
            UserError: It does not look like the first one, so that the two could not be batched.
        """
        template, arrays = taken_apart(example)
        leaves = tuple(map(form_of, arrays))
        if self._leaves is None:
            self._template, self._leaves = template, leaves
        elif (template, leaves) != (self._template, self._leaves):
            raise UserError(
                f"example {self._count}: is {in_words(leaves)}, where the first is "
                f"{in_words(self._leaves)}. Give all examples one structure and one shape (pad or "
                "resize them in the pipeline)."
            )
        record = encoded(arrays)
        self._digest.update(LENGTH.pack(len(record)))
        self._digest.update(record)
        self._count += 1
        if self._writer is not None:
            self._writer.write(record)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._writer is not None:
            self._writer.close()
            self._partial.unlink(missing_ok=True)

    def store(self) -> ExampleStore:
        """Finishes the store, to which nothing can be added from here on, and opens it.

        Raises:
            UserError: With `again`, what was added is not what is there.
        """
        digest = self._digest.hexdigest()
        if self._there is not None:
            if self._there.digest != digest:
                raise UserError(
                    f"{self.directory}: holds other examples than {self._origin} has now. Remove "
                    "it, or name another directory."
                )
            return self._there
        self._writer.close()
        self._writer = None
        self._partial.replace(self.directory / _RECORDS)
        card = {
            "count": self._count,
            "template": to_card(self._template),
            "leaves": self._leaves or (),
            "digest": digest,
            "origin": self._origin,
        }
        partial = self.directory / f"{_CARD}.{uuid.uuid4().hex}.partial"
        partial.write_text(json.dumps(card), encoding="utf-8")
        partial.replace(self.directory / _CARD)
        return open_store(self.directory)
