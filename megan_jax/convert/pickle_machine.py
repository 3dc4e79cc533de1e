"""A pickle machine that can build what a saved state dict needs, and nothing else.

Python's own unpickler imports and calls whatever a file names, and even a restricted subclass of it
lets a short file claim gigabytes (a memo index of 2^32 allocates that many slots). This one walks
the operations that `pickletools` decodes, knows the few that `torch.save` writes, and calls only
the functions that it is given.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from megan_jax.errors import UserError

_CONSTANTS = {
    "BININT",
    "BININT1",
    "BININT2",
    "INT",
    "LONG",
    "LONG1",
    "LONG4",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "UNICODE",
    "BINBYTES",
    "SHORT_BINBYTES",
}
_FIXED = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FETCH = {"BINGET", "LONG_BINGET", "GET"}
_STORE = {"BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"}


class Name:
    """A global name that a pickle may refer to; `build` is what a call of it does, if anything."""

    def __init__(self, name: str, build: Callable[..., Any] | None = None):
        self.name, self.build = name, build


def unpickle(
    data: bytes,
    names: Mapping[str, Callable[..., Any] | None],
    persistent: Callable[[Any], Any],
    where: str,
) -> Any:
    """Builds the object that a pickle describes, out of dicts, lists, tuples and given names.

    Args:
      data: the pickle.
      names: full name ("collections.OrderedDict") to the function that a call stands for, or to
        None for a name that may only be mentioned.
      persistent: resolves a persistent id.
      where: the file, for messages.

    Raises:
      UserError: a name that is not in `names`, an operation that a state dict does not need, or a
        malformed or truncated pickle.
    """
    machine = _Machine(names, persistent, where)
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "STOP":
                return machine.pop()
            machine.step(operation.name, argument)
    except (ValueError, TypeError, LookupError, OverflowError, struct.error) as error:
        raise UserError(f"{where}: the pickle is malformed ({error}).") from error
    raise UserError(f"{where}: the pickle ends before it is complete.")


class _Machine:
    def __init__(self, names, persistent, where):
        self.names, self.persistent, self.where = names, persistent, where
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise ValueError("a mark where a value should be")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def step(self, operation: str, argument: Any) -> None:
        push = self.stack.append
        if operation in ("PROTO", "FRAME"):
            return
        if operation in _CONSTANTS:
            push(argument)
        elif operation in _FIXED:
            push(_FIXED[operation]())
        elif operation == "MARK":
            self.marks.append(len(self.stack))
        elif operation == "TUPLE":
            push(tuple(self.pop_to_mark()))
        elif operation == "LIST":
            push(self.pop_to_mark())
        elif operation == "DICT":
            values = self.pop_to_mark()
            push({})
            self._set_items(values)
        elif operation in _SHORT_TUPLES:
            values = [self.pop() for _ in range(_SHORT_TUPLES[operation])]
            push(tuple(reversed(values)))
        elif operation in _STORE:
            self.memo[len(self.memo) if operation == "MEMOIZE" else argument] = self.stack[-1]
        elif operation in _FETCH:
            push(self.memo[argument])
        elif operation in ("APPEND", "APPENDS"):
            values = [self.pop()] if operation == "APPEND" else self.pop_to_mark()
            self._top(list).extend(values)
        elif operation in ("SETITEM", "SETITEMS"):
            values = [self.pop(), self.pop()][::-1] if operation == "SETITEM" else None
            self._set_items(self.pop_to_mark() if values is None else values)
        elif operation == "GLOBAL":
            push(self._name(argument.replace(" ", ".", 1)))
        elif operation == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            if not (isinstance(name, str) and isinstance(module, str)):
                raise ValueError("a global name that is not text")
            push(self._name(f"{module}.{name}"))
        elif operation == "BINPERSID":
            push(self.persistent(self.pop()))
        elif operation == "REDUCE":
            arguments, function = self.pop(), self.pop()
            push(self._call(function, arguments))
        elif operation == "BUILD":
            # A state dict carries module versions as attributes; they say nothing about weights.
            if not isinstance(self.pop(), dict):
                raise ValueError("attributes that are not a dict")
            self._top(dict)
        else:
            what = (
                f"{operation} {str(argument).replace(' ', '.', 1)[:100]}" if argument else operation
            )
            raise UserError(
                f"{self.where}: refuses the pickle operation {what}; a file of tensors does not "
                "need it. Do not load this file with other software."
            )

    def _top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"no {kind.__name__} where one should be")
        return self.stack[-1]

    def _set_items(self, values: list[Any]) -> None:
        into = self._top(dict)
        if len(values) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                raise ValueError(f"a dict key of type {type(key).__name__}")
            into[key] = value

    def _name(self, name: str) -> Name:
        if name not in self.names:
            raise UserError(
                f"{self.where}: refuses to load {name[:100]}: a file of weights holds tensors and "
                "nothing else, and loading this name could run code. Do not load this file with "
                "other software; ask for the weights as safetensors."
            )
        return Name(name, self.names[name])

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or function.build is None:
            what = function.name if isinstance(function, Name) else type(function).__name__
            raise ValueError(f"a call of {what}")
        if not isinstance(arguments, tuple):
            raise ValueError("call arguments that are not a tuple")
        return function.build(*arguments)
