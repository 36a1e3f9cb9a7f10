"""Reads the pickle opcodes that torch uses for state_dicts. CPython's Lib/pickletools.py describes them.

Objects of other classes become placeholders: a checkpoint is read without running code of its choice.

Python's own unpickler does not limit memory and time, even if it is kept from calling anything. Five bytes make
it allocate gigabytes for its memo. A key that is a pair of pairs of pairs, sixty levels deep, makes it hash
forever. Here, the cost of a step grows only with the bytes that it reads, and the number of steps is limited.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from imgclassify.errors import make_printable, name_type

MAX_STEPS = 2**22
"""Steps in one pickle. ResNet-50 takes 10,898. This many take a few seconds and less than half a gigabyte."""
MAX_ARGUMENTS = 16
"""Arguments of a call. Without a limit, a pickle could pass the same million values to a million calls."""

KEYS = (str, int, float, bytes, type(None))
"""Types that a key may have. None of them contains other values, so hashing a key is quick."""
MAX_INT_KEY = 2**60
"""An int key must be smaller. Python randomises the hashes of str and bytes, but the hash of an int is its
remainder modulo 2**61 - 1. If many keys had the same hash, time would grow with the square of their number."""
_SHOWN = 100
"""The number of characters of a name that is shown."""
_STOP = pickle.STOP[0]
_unpack_uint16 = struct.Struct("<H").unpack_from
_unpack_uint32 = struct.Struct("<I").unpack_from
_unpack_int32 = struct.Struct("<i").unpack_from
_unpack_uint64 = struct.Struct("<Q").unpack_from
_unpack_float64 = struct.Struct(">d").unpack_from


class Placeholder:
    """Stands for an object that a pickle would build by running code. Nothing of it is run."""

    __slots__ = ("arguments", "entries", "items", "name", "state")

    def __init__(self, name: str, arguments: Any = ()) -> None:
        self.name = name
        """The name of the class or function that would be called, with its module."""
        self.arguments = arguments
        """What it would be called with, as a tuple."""
        self.state: Any = None
        """What would become its attributes: mostly a dictionary."""
        self.entries: dict[Any, Any] | None = None
        """The entries of a subclass of dict."""
        self.items: list[Any] | None = None
        """The items of a subclass of list."""

    def __repr__(self) -> str:
        return f"<{make_printable(self.name, _SHOWN)}>"


class _UnknownKey:
    """Stands for a key of a type that is not in KEYS. It is equal to no other key."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<object>"


class Unpickler:
    """Reads pickles that follow one another in the same content."""

    def __init__(
        self,
        content: bytes | memoryview,
        find_global: Callable[[str, str], Any],
        load_persistent: Callable[[Any], Any],
        *,
        with_objects: bool,
    ) -> None:
        """
        Args:
            find_global: returns the value or function for (module, name), or raises. The cost of the function
                may not grow with its arguments. It returns a Placeholder for what may not be called.
            load_persistent: returns the value for a persistent id, which may be of any type. Its cost may not
                grow with the id.
            with_objects: whether objects of any class, sets and keys of any type are allowed. They become inert:
                a Placeholder, a list, and a key that nothing is equal to.
        """
        self.position = 0
        """The offset after the pickles that have been read, in bytes."""
        self._content = content
        self._find_global = find_global
        self._load_persistent = load_persistent
        self._with_objects = with_objects
        self._steps = _STEPS | _OBJECT_STEPS if with_objects else _STEPS
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load_next(self) -> Any:
        """Returns the content of the next pickle.

        It consists of dictionaries, lists, tuples, text, bytes, numbers, booleans and None, of Placeholders, and
        of the values that `find_global` and `load_persistent` return.

        Raises:
            ValueError: the pickle is damaged, has too many steps, or has something that no state_dict has.
        """
        self._stack, self._marks, self._memo = [], [], {}
        content, steps = self._content, self._steps
        try:
            for _ in range(MAX_STEPS):
                code = content[self.position]
                self.position += 1
                if code == _STOP:
                    return self._stack.pop()
                steps[code](self)
        except (IndexError, KeyError, struct.error):
            raise ValueError(f"its pickle is damaged at byte {self.position}, or ends there") from None
        raise ValueError(f"its pickle has more than {MAX_STEPS:,} steps")

    def _reject(self) -> None:
        raise ValueError(f"its pickle has something at byte {self.position - 1} that no state_dict has")

    # What the steps share ------------------------------------------------------------------------------------

    def _read_bytes(self, size: int) -> bytes | memoryview:
        begin, self.position = self.position, self.position + size
        if self.position > len(self._content):
            raise IndexError
        return self._content[begin : self.position]

    def _push_text(self, begin: int, size: int) -> None:
        self.position = begin + size
        if self.position > len(self._content):
            raise IndexError
        self._stack.append(str(self._content[begin : self.position], "utf-8", "surrogatepass"))

    def _read_line(self) -> str:
        begin = self.position
        while self._content[self.position] != ord("\n"):
            self.position += 1
        self.position += 1
        return str(self._content[begin : self.position - 1], "utf-8")

    def _pop_to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _extend_list(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is Placeholder:
            if target.items is None:
                target.items = []
            target = target.items
        if type(target) is not list:
            self._reject()
        target.extend(values)

    def _update_dict(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is Placeholder:
            if target.entries is None:
                target.entries = {}
            target = target.entries
        if type(target) not in (dict, OrderedDict):
            self._reject()
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, KEYS):
                if not self._with_objects:
                    raise ValueError(f"it has a dictionary with {name_type(key)} as a key")
                key = _UnknownKey()
            if isinstance(key, int) and abs(key) >= MAX_INT_KEY:
                raise ValueError("it has a dictionary with an integer of more than 60 bits as a key")
            target[key] = value

    # The steps -----------------------------------------------------------------------------------------------

    def put_1(self) -> None:
        self._memo[self._content[self.position]] = self._stack[-1]
        self.position += 1

    def put_4(self) -> None:
        self._memo[_unpack_uint32(self._content, self.position)[0]] = self._stack[-1]
        self.position += 4

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get_1(self) -> None:
        self._stack.append(self._memo[self._content[self.position]])
        self.position += 1

    def get_4(self) -> None:
        self._stack.append(self._memo[_unpack_uint32(self._content, self.position)[0]])
        self.position += 4

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def integer_1(self) -> None:
        self._stack.append(self._content[self.position])
        self.position += 1

    def integer_2(self) -> None:
        self._stack.append(_unpack_uint16(self._content, self.position)[0])
        self.position += 2

    def integer_4(self) -> None:
        self._stack.append(_unpack_int32(self._content, self.position)[0])
        self.position += 4

    def integer(self) -> None:
        self._stack.append(int.from_bytes(self._read_bytes(self._read_bytes(1)[0]), "little", signed=True))

    def real(self) -> None:
        self._stack.append(_unpack_float64(self._content, self.position)[0])
        self.position += 8

    def long_integer(self) -> None:
        size = _unpack_int32(self._read_bytes(4))[0]
        self._stack.append(int.from_bytes(self._read_bytes(max(size, 0)), "little", signed=True))

    def text_1(self) -> None:
        self._push_text(self.position + 1, self._content[self.position])

    def text_4(self) -> None:
        self._push_text(self.position + 4, _unpack_uint32(self._content, self.position)[0])

    def text_8(self) -> None:
        self._push_text(self.position + 8, _unpack_uint64(self._content, self.position)[0])

    def binary_1(self) -> None:
        self._stack.append(bytes(self._read_bytes(self._read_bytes(1)[0])))

    def binary_4(self) -> None:
        self._stack.append(bytes(self._read_bytes(_unpack_uint32(self._read_bytes(4))[0])))

    def binary_8(self) -> None:
        self._stack.append(bytes(self._read_bytes(_unpack_uint64(self._read_bytes(8))[0])))

    def none(self) -> None:
        self._stack.append(None)

    def true(self) -> None:
        self._stack.append(True)

    def false(self) -> None:
        self._stack.append(False)

    def empty_dict(self) -> None:
        self._stack.append({})

    def empty_list(self) -> None:
        self._stack.append([])

    def empty_tuple(self) -> None:
        self._stack.append(())

    def tuple_1(self) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def tuple_2(self) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def tuple_3(self) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def tuple_from_mark(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def append(self) -> None:
        value = self._stack.pop()
        self._extend_list([value])

    def appends(self) -> None:
        self._extend_list(self._pop_to_mark())

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update_dict([key, value])

    def set_items(self) -> None:
        self._update_dict(self._pop_to_mark())

    def push_global(self) -> None:
        module = self._read_line()
        self._stack.append(self._find_global(module, self._read_line()))

    def push_global_from_stack(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            self._reject()
        self._stack.append(self._find_global(module, name))

    def persistent_id(self) -> None:
        self._stack.append(self._load_persistent(self._stack.pop()))

    def apply_function(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(arguments) is not tuple:
            self._reject()
        if type(function) is Placeholder:
            self._stack.append(Placeholder(function.name, arguments))
            return
        if len(arguments) > MAX_ARGUMENTS:
            self._reject()
        self._stack.append(function(*arguments))

    def set_attributes(self) -> None:
        """Sets `_metadata`, the only attribute that torch gives a state_dict. Others are ignored.

        A Placeholder keeps its state as it is.
        """
        state, target = self._stack.pop(), self._stack[-1]
        if type(target) is Placeholder:
            target.state = state
            return
        if type(target) is not OrderedDict or type(state) is not dict or len(state) > MAX_ARGUMENTS:
            self._reject()
        if "_metadata" in state:
            target._metadata = state["_metadata"]

    def pop(self) -> None:
        """Drops a value, or a mark that nothing follows. Tuples that contain themselves are written so."""
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def pop_mark(self) -> None:
        self._pop_to_mark()

    def new_object(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._push_object(function, arguments)

    def new_object_with_keywords(self) -> None:
        self._stack.pop()
        self.new_object()

    def object_from_mark(self) -> None:
        values = self._pop_to_mark()
        self._push_object(values[0], tuple(values[1:]))

    def instance(self) -> None:
        module = self._read_line()
        function = self._find_global(module, self._read_line())
        self._push_object(function, tuple(self._pop_to_mark()))

    def _push_object(self, function: Any, arguments: Any) -> None:
        """Pushes an object that a class makes, of which only a state_dict is more than a Placeholder."""
        if type(function) is Placeholder:
            self._stack.append(Placeholder(function.name, arguments))
        elif arguments == ():
            self._stack.append(function())
        else:
            self._reject()

    def empty_set(self) -> None:
        self._stack.append([])

    def frozen_set(self) -> None:
        self._stack.append(self._pop_to_mark())

    def protocol(self) -> None:
        self._read_bytes(1)

    def frame(self) -> None:
        self._read_bytes(8)


_STEPS = {
    code[0]: step
    for code, step in {
        pickle.PROTO: Unpickler.protocol,
        pickle.FRAME: Unpickler.frame,
        pickle.BINPUT: Unpickler.put_1,
        pickle.LONG_BINPUT: Unpickler.put_4,
        pickle.MEMOIZE: Unpickler.memoize,
        pickle.BINGET: Unpickler.get_1,
        pickle.LONG_BINGET: Unpickler.get_4,
        pickle.MARK: Unpickler.mark,
        pickle.NONE: Unpickler.none,
        pickle.NEWTRUE: Unpickler.true,
        pickle.NEWFALSE: Unpickler.false,
        pickle.BININT1: Unpickler.integer_1,
        pickle.BININT2: Unpickler.integer_2,
        pickle.BININT: Unpickler.integer_4,
        pickle.LONG1: Unpickler.integer,
        pickle.BINFLOAT: Unpickler.real,
        pickle.SHORT_BINUNICODE: Unpickler.text_1,
        pickle.BINUNICODE: Unpickler.text_4,
        pickle.BINUNICODE8: Unpickler.text_8,
        pickle.SHORT_BINSTRING: Unpickler.text_1,
        pickle.BINSTRING: Unpickler.text_4,
        pickle.SHORT_BINBYTES: Unpickler.binary_1,
        pickle.BINBYTES: Unpickler.binary_4,
        pickle.EMPTY_TUPLE: Unpickler.empty_tuple,
        pickle.TUPLE1: Unpickler.tuple_1,
        pickle.TUPLE2: Unpickler.tuple_2,
        pickle.TUPLE3: Unpickler.tuple_3,
        pickle.TUPLE: Unpickler.tuple_from_mark,
        pickle.EMPTY_LIST: Unpickler.empty_list,
        pickle.APPEND: Unpickler.append,
        pickle.APPENDS: Unpickler.appends,
        pickle.EMPTY_DICT: Unpickler.empty_dict,
        pickle.SETITEM: Unpickler.set_item,
        pickle.SETITEMS: Unpickler.set_items,
        pickle.GLOBAL: Unpickler.push_global,
        pickle.STACK_GLOBAL: Unpickler.push_global_from_stack,
        pickle.BINPERSID: Unpickler.persistent_id,
        pickle.REDUCE: Unpickler.apply_function,
        pickle.BUILD: Unpickler.set_attributes,
    }.items()
}
_OBJECT_STEPS = {
    code[0]: step
    for code, step in {
        pickle.POP: Unpickler.pop,
        pickle.POP_MARK: Unpickler.pop_mark,
        pickle.LONG4: Unpickler.long_integer,
        pickle.BINBYTES8: Unpickler.binary_8,
        pickle.BYTEARRAY8: Unpickler.binary_8,
        pickle.NEWOBJ: Unpickler.new_object,
        pickle.NEWOBJ_EX: Unpickler.new_object_with_keywords,
        pickle.OBJ: Unpickler.object_from_mark,
        pickle.INST: Unpickler.instance,
        pickle.EMPTY_SET: Unpickler.empty_set,
        pickle.FROZENSET: Unpickler.frozen_set,
        pickle.ADDITEMS: Unpickler.appends,
    }.items()
}
"""The steps that only objects need. Sets become lists, because hashing their items may take forever."""
