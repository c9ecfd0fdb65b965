"""PySide6 as PythonQt shows it to scripts in Slicer: properties are attributes, enums are int, values are strict.

Slicer's modules never see PySide6 objects, only wrappers made here. A wrapper knows what PythonQt knows of a class: its
Qt properties, slots, signals, enums and (for Qt's own classes) public methods, and refuses everything else. Checked
against PythonQt 4.1 (github.com/MeVisLab/pythonqt, which Slicer 5.13 builds): the order in which a name is looked up is
``PythonQtInstanceWrapper_getattro`` and ``PythonQtClassInfo::member``, assignments are
``PythonQtInstanceWrapper_setattro``, calls ``PythonQtSlotFunction_CallImpl``, values ``PythonQtConversion.cpp``, and
connections ``PythonQtSignalReceiver.cpp``. Where PythonQt converts silently (a float cut to an int, any object to its
text) the host refuses instead.
"""

from __future__ import annotations

import enum
import functools
import gc
import inspect
import sys
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import shiboken6
from PySide6 import QtCore, QtWidgets
from shibokensupport.signature import get_signature
from vtkmodules.vtkCommonCore import vtkObjectBase

# Exceptions that left a callback. PythonQt prints them and goes on (PythonQt::handleError); a test must fail on them.
errors: list[BaseException] = []

_PYTHON_TYPES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)


def exposed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a method of one of the host's own widgets that C++ offers to Python: a public slot or Q_INVOKABLE."""
    function._exposed = True  # type: ignore[attr-defined]
    return function


def report(error: BaseException) -> None:
    """Note an exception that must not travel through Qt."""
    errors.append(error)
    sys.excepthook(type(error), error, error.__traceback__)


# Enums ---------------------------------------------------------------------------------------------------------------

_enum_wrappers: dict[type, type] = {}
_enum_origins: dict[type, type] = {}


def _enum_wrapper(enum_class: type) -> type:
    """PythonQtPrivate::createNewPythonQtEnumWrapper: an empty subclass of int; values are on the class around it."""
    if enum_class not in _enum_wrappers:
        wrapper = type(enum_class.__name__, (int,), {"__module__": enum_class.__module__})
        _enum_wrappers[enum_class] = wrapper
        _enum_origins[wrapper] = enum_class
    return _enum_wrappers[enum_class]


@functools.cache
def _enums(raw: type) -> dict[str, Any]:
    """The enums of a class and their values by name."""
    found: dict[str, Any] = {}
    for name in dir(raw):
        candidate = getattr(raw, name, None)
        if isinstance(candidate, type) and issubclass(candidate, enum.Enum):
            wrapper = _enum_wrapper(candidate)
            found[name] = wrapper
            for key, member in candidate.__members__.items():
                found.setdefault(key, wrapper(member.value))
    return {name: value for name, value in found.items() if not _is_absent(raw, name)}


# Values --------------------------------------------------------------------------------------------------------------


def wrap(value: Any) -> Any:
    """A value of PySide6 as PythonQt would hand it to Python."""
    if value is None or isinstance(value, (bool, str, bytes)):
        return value
    if isinstance(value, enum.Enum):
        return _enum_wrapper(type(value))(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value
    if isinstance(value, (list, tuple)):  # QStringListToPyObject, QVariantListToPyObject, ConvertQListOf...: tuples
        return tuple(wrap(item) for item in value)
    if isinstance(value, dict):
        return {wrap(key): wrap(item) for key, item in value.items()}
    if isinstance(value, shiboken6.Shiboken.Object):
        return _instance(value)
    return value  # VTK and MRML objects travel as they are


_layout_items: weakref.WeakValueDictionary[int, Instance] = weakref.WeakValueDictionary()


def _instance(raw: Any) -> Instance:
    known = getattr(raw, "_host_wrapper", None)
    known = known() if isinstance(known, weakref.ref) else known
    if known is not None:
        return known
    known = _layout_items.get(id(raw))
    if known is not None:
        return known
    wrapper_class = wrapper_of(type(raw))
    wrapper = wrapper_class.__new__(wrapper_class)
    _bind(wrapper, raw)
    if isinstance(raw, QtWidgets.QLayoutItem) and not isinstance(raw, QtCore.QObject):
        # A layout's PySide6 object keeps those of its items, which do not learn that C++ deletes one when a widget is
        # moved, and answer for whatever is made at the same address. In PythonQt they go with the script's reference.
        _layout_items[id(raw)] = wrapper
        if not shiboken6.ownedByPython(raw):
            weakref.finalize(wrapper, shiboken6.invalidate, raw)
    return wrapper


def _bind(wrapper: Instance, raw: Any) -> None:
    object.__setattr__(wrapper, "_host_raw", raw)
    if isinstance(raw, QtCore.QObject):
        # What Python derived lives as long as its C++ object (PythonQt's shell instances); plain wrappers come and go.
        raw._host_wrapper = wrapper if _is_derived(type(wrapper)) else weakref.ref(wrapper)


def unwrap(value: Any) -> Any:
    """A value of a script as PySide6 takes it."""
    if isinstance(value, Instance):
        raw = value._host_raw
        if not shiboken6.isValid(raw):
            raise ValueError(f"a destroyed {type(value).__name__} object was passed")
        return raw
    if isinstance(value, ClassWrapper):
        return value._host_class
    origin = _enum_origins.get(type(value))
    if origin is not None:
        return origin(int(value))
    if isinstance(value, _PYTHON_TYPES):
        raise ValueError(f"a Python callable ({value!r}) is no value for Qt; connect a signal instead")
    if type(value) in (list, tuple):
        return [unwrap(item) for item in value]
    if type(value) is dict:
        return {key: unwrap(item) for key, item in value.items()}
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()  # __index__ and __float__ do for PythonQt
    return value


# Classes -------------------------------------------------------------------------------------------------------------

_wrappers: dict[type, ClassWrapper] = {}
_NOTHING = object()
# PySide6's own additions to Qt's classes.
_FOREIGN = {
    "SIGNAL",
    "SLOT",
    "emit",
    "_host_wrapper",
    "staticMetaObject",
    "toPython",
    "toTuple",
    "connect",
    "disconnect",
}


def wrapper_of(raw: type) -> ClassWrapper:
    """The script's class for a class of PySide6 or of the host."""
    while raw.__dict__.get("_host_shell"):
        raw = raw.__mro__[1]
    if raw not in _wrappers:
        if issubclass(raw, QtCore.QObject):
            _meta(raw)
        _wrappers[raw] = ClassWrapper(
            raw.__name__, (Instance,), {"__module__": raw.__module__, "__slots__": (), "_host_class": raw}
        )
    return _wrappers[raw]


def _is_derived(wrapper_class: type) -> bool:
    return wrapper_class.__mro__[1] is not Instance


def _absent_names() -> dict[str, set[str]]:
    lines = (Path(__file__).parent / "not_in_pythonqt.txt").read_text(encoding="utf-8").splitlines()
    return {line.partition(":")[0]: set(line.partition(":")[2].split()) for line in lines if not line.startswith("#")}


_ABSENT = _absent_names()


def _is_absent(raw: type, name: str) -> bool:
    return any(name in _ABSENT.get(base.__name__, ()) for base in raw.__mro__)


def _method(raw: type, name: str) -> Any:
    """A public method of a class, or nothing. The host's own classes show only what C++ would show."""
    if name.startswith("_") or name in _FOREIGN or _is_absent(raw, name):
        return _NOTHING
    if raw is QtCore.QTimer and name == "singleShot":
        return _single_shot
    for base in raw.__mro__:
        member = base.__dict__.get(name, _NOTHING)
        if member is _NOTHING or base.__dict__.get("_host_shell"):
            continue
        function = member.__func__ if isinstance(member, staticmethod) else member
        if isinstance(member, type):
            return _NOTHING
        if base.__module__.startswith(("PySide6.", "Shiboken")):
            return function if callable(function) and not isinstance(function, QtCore.Signal) else _NOTHING
        if getattr(function, "_exposed", False) or (callable(function) and _is_of_qt(raw, name)):
            return function
    return _NOTHING


def _is_of_qt(raw: type, name: str) -> bool:
    return any(name in base.__dict__ and base.__module__.startswith("PySide6.") for base in raw.__mro__)


# Static functions that share their name with a method: PythonQt finds the method and wants an instance.
_ALSO_METHODS = {
    "exists",
    "remove",
    "rename",
    "copy",
    "link",
    "resize",
    "permissions",
    "setPermissions",
    "symLinkTarget",
}


def _is_static(raw: type, name: str) -> bool:
    if issubclass(raw, (QtCore.QFile, QtCore.QFileInfo)) and name in _ALSO_METHODS:
        return False
    for base in raw.__mro__:
        if name in base.__dict__:
            return isinstance(base.__dict__[name], (staticmethod, types.BuiltinFunctionType))
    return False


def _single_shot(msec: int, function: Callable[..., Any]) -> None:
    """PythonQtStdDecorators::static_QTimer_singleShot: a Python callable, without arguments."""
    QtCore.QTimer.singleShot(msec, lambda: _call_back(function, ()))


class _Property(NamedTuple):
    type_name: str
    writable: bool
    is_enum: bool


class _Meta(NamedTuple):
    properties: dict[str, _Property]
    signals: dict[str, list[str]]  # signatures by name, in the order of the meta object
    methods: set[str]


@functools.cache
def _meta(raw: type) -> _Meta:
    """What a class's meta object says, read once: PySide6's wrapper of it dies with the first object asked for it."""
    meta = raw.staticMetaObject
    methods = [meta.method(index) for index in range(meta.methodCount())]
    signals: dict[str, list[str]] = {}
    for method in methods:
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal:
            signature = _text(method.methodSignature()).replace("qlonglong", "qint64")  # as in Qt 5
            signals.setdefault(_text(method.name()), []).append(signature)
    properties = {}
    for index in range(meta.propertyCount()):
        found = meta.property(index)
        if found.name() not in _NEW_PROPERTIES:
            properties[found.name()] = _Property(found.typeName(), found.isWritable(), found.isEnumType())
    if issubclass(raw, QtCore.QTimer):  # users need setSingleShot and isSingleShot (lookForPropertyAndCache)
        del properties["singleShot"]
    properties.setdefault("name", properties["objectName"])
    return _Meta(properties, signals, {_text(method.methodSignature()) for method in methods})


def _text(array: QtCore.QByteArray) -> str:
    return bytes(array.data()).decode()


class ClassWrapper(type):
    """PythonQtClassWrapper: a Qt class as scripts see it."""

    _host_class: type

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raw = cls._host_class
        values = _enums(raw)
        if name in values:
            return values[name]
        nested = getattr(raw, name, None)
        if isinstance(nested, type) and issubclass(nested, shiboken6.Shiboken.Object):
            return wrapper_of(nested)
        if issubclass(raw, QtCore.QObject) and name in ("connect", "disconnect"):
            return lambda sender, *args: getattr(sender, name)(*args)
        function = _method(raw, name)
        if function is _NOTHING and name.endswith("_"):
            name = name[:-1]
            function = _method(raw, name)
        if function is not _NOTHING:
            return Slot(function, name, None, _is_static(raw, name) or function is _single_shot, raw)
        raise AttributeError(f"type object '{cls.__name__}' has no attribute '{name}'")

    def __setattr__(cls, name: str, value: Any) -> None:
        if not _is_derived(cls):
            raise AttributeError(f"'{name}' can not be set on the C++ class {cls.__name__}")
        super().__setattr__(name, value)


class Instance(metaclass=ClassWrapper):
    """PythonQtInstanceWrapper: an object of Qt as scripts see it."""

    __slots__ = ("__weakref__", "_host_raw")
    _host_class: Any = object

    def __init__(self, *args: Any, **keywords: Any) -> None:
        raw = type(self)._host_class
        if keywords:
            raise ValueError(f"Called {raw.__name__} with keyword arguments, but called slot does not support kwargs.")
        _bind(self, _construct(_shell(type(self)) if _is_derived(type(self)) else raw, args))

    def __getattr__(self, name: str) -> Any:
        if name == "_host_raw":
            raise ValueError(f"{type(self).__name__}.__init__ of the Qt class was not called")
        if name.startswith("__"):
            raise AttributeError(name)
        raw = self._host_raw
        is_object = isinstance(raw, QtCore.QObject)
        alive = shiboken6.isValid(raw)
        raw_class = type(self)._host_class
        if is_object and name in _meta(raw_class).properties:
            if not alive:
                raise ValueError(f"Trying to read property '{name}' from a destroyed {type(self).__name__} object")
            return _read(raw, raw_class, _QT_NAME.get(name, name))
        if is_object and name in ("connect", "disconnect"):
            return functools.partial(_connect if name == "connect" else _disconnect, self)
        if is_object and name in ("findChild", "findChildren"):
            return functools.partial(_find, raw, name)
        function, called = _method(raw_class, name), name
        if function is _NOTHING and name.endswith("_") and not name.endswith("__"):
            called = name[:-1]
            function = _method(raw_class, called)
        if is_object and function is _NOTHING and name in _meta(raw_class).signals:
            return BoundSignal(self, name)
        if function is not _NOTHING:
            return Slot(function, called, self, _is_static(raw_class, called) or function is _single_shot, raw_class)
        values = _enums(raw_class)
        if name in values:
            return values[name]
        if is_object and alive:
            if name.encode() in [bytes(key.data()) for key in raw.dynamicPropertyNames()]:
                return wrap(raw.property(name))
            for child in raw.children():
                if child.objectName() == name:
                    return wrap(child)
        raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        raw, raw_class = self._host_raw, type(self)._host_class
        is_object = isinstance(raw, QtCore.QObject)
        who = type(self).__name__
        if is_object and name in _meta(raw_class).properties:
            if not shiboken6.isValid(raw):
                raise AttributeError(f"Trying to set property '{name}' on a destroyed {who} object")
            _write(raw, raw_class, _QT_NAME.get(name, name), value)
            return
        if _method(raw_class, name) is not _NOTHING or (is_object and name in _meta(raw_class).signals):
            raise AttributeError(f"Slot '{name}' can not be overwritten on {who} object")
        if name in _enums(raw_class):
            raise AttributeError(f"EnumValue '{name}' can not be overwritten on {who} object")
        if is_object and name.encode() in [bytes(key.data()) for key in raw.dynamicPropertyNames()]:
            raw.setProperty(name, unwrap(value))
            return
        if not _is_derived(type(self)):
            raise AttributeError(
                f"'{name}' does not exist on {who} and creating new attributes on C++ objects is not allowed"
            )
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if other is None:
            return not shiboken6.isValid(self._host_raw)
        if isinstance(other, bytes) and isinstance(self._host_raw, QtCore.QByteArray):
            return bool(self._host_raw == other)
        if not isinstance(other, Instance):
            return False
        if isinstance(self._host_raw, QtCore.QObject):
            return self._host_raw is other._host_raw
        return bool(self._host_raw == other._host_raw)

    def __hash__(self) -> int:
        return id(self._host_raw)

    def __bool__(self) -> bool:
        if isinstance(self._host_raw, QtCore.QByteArray):
            return not self._host_raw.isEmpty()
        return shiboken6.isValid(self._host_raw)

    def __add__(self, other: Any) -> Any:
        return wrap(self._host_raw + unwrap(other))

    def __repr__(self) -> str:
        if isinstance(self._host_raw, QtCore.QByteArray):
            return f"QByteArray ({bytes(self._host_raw.data())!r})"
        return f"{type(self).__name__} ({type(self)._host_class.__name__} at: {id(self._host_raw):#x})"

    def __str__(self) -> str:
        if isinstance(self._host_raw, QtCore.QByteArray):  # "b'...'", never the text: use data()
            return repr(bytes(self._host_raw.data()))
        return repr(self)

    def className(self) -> str:
        """The name of the wrapper's class."""
        return type(self).__name__

    def inherits(self, name: str) -> bool:
        """Whether the C++ class is this one or a descendant of it."""
        return any(base.__name__ == name for base in type(self)._host_class.__mro__)

    def delete(self) -> None:
        """Delete the C++ object at once."""
        shiboken6.delete(self._host_raw)


# Properties ----------------------------------------------------------------------------------------------------------

_QT_NAME = {"name": "objectName"}  # PYTHONQT_SUPPORT_NAME_PROPERTY, which Slicer builds with


# Properties that came with Qt 6. The first was a function before: fit for neither as long as both are in use.
_NEW_PROPERTIES = {"contentsMargins", "supportedDragActions", "updateThreshold", "keyboardSearchFlags", "timeZone"}
_NEW_PROPERTIES |= {"labelDrawingMode", "accessibleIdentifier", "horizontalSizeConstraint", "verticalSizeConstraint"}


def _read(raw: Any, raw_class: type, name: str) -> Any:
    meta = _meta(raw_class).properties[name]
    try:
        value = raw.property(name)
    except RuntimeError:  # PySide6 has no converter of this enum from a QVariant; the getter has one
        getter = _method(raw_class, name)
        value = getattr(raw, name if getter is not _NOTHING else f"is{name[0].upper()}{name[1:]}")()
    if meta.is_enum and isinstance(value, (int, enum.Enum)):
        return int(value.value) if isinstance(value, enum.Enum) else value  # in a QVariant an enum is a plain int
    return wrap(value)


_NUMBERS = {"int": (int,), "uint": (int,), "bool": (bool, int), "double": (int, float), "float": (int, float)}


def _write(raw: Any, raw_class: type, name: str, value: Any) -> None:
    meta, who = _meta(raw_class).properties[name], raw_class.__name__
    if not meta.writable:
        raise AttributeError(f"Property '{name}' of {who} object is not writable")
    type_name = meta.type_name
    value = unwrap(value) if type(value).__module__ == "numpy" else value
    fits = value is not None or type_name in ("QVariant", "PyObject")
    if type_name in _NUMBERS:
        fits = isinstance(value, _NUMBERS[type_name])
    elif type_name == "QString":
        fits = isinstance(value, str)
    elif meta.is_enum:
        fits = isinstance(value, (int, str))
        value = int(value) if isinstance(value, int) else value
    if not fits or not raw.setProperty(name, unwrap(value)):
        kind = type(value).__name__
        raise AttributeError(
            f"Property '{name}' of type '{type_name}' does not accept an object of type {kind} ({value!r})"
        )


# Calls ---------------------------------------------------------------------------------------------------------------


class Slot:
    """PythonQtSlotFunction: a method that was looked up, bound to an object or not."""

    def __init__(self, function: Any, name: str, instance: Instance | None, static: bool, owner: type) -> None:
        self._function, self._instance, self._static, self._owner = function, instance, static, owner
        self.__name__ = name

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if keywords:
            raise ValueError(f"Called {self.__name__} with keyword arguments, but called slot does not support kwargs.")
        if self._function is _single_shot:
            return _single_shot(*args)
        given = list(args)
        function = self._function
        target = self._instance
        if target is None and not self._static:  # an unbound call: QWidget.show(widget)
            if not given or not isinstance(given[0], Instance):
                who = self._owner.__name__
                raise ValueError(f"slot {self.__name__} requires {who} instance as first argument, got {given[:1]!r}")
            target = given.pop(0)
        if target is not None:
            raw = target._host_raw
            if not shiboken6.isValid(raw):
                raise ValueError(f"Trying to call '{self.__name__}' on a destroyed {type(target).__name__} object")
            # What Python overrides is asked of the base, else the override would call itself.
            function = getattr(super(type(raw), raw) if "_host_shell" in type(raw).__dict__ else raw, self.__name__)
        return wrap(_first_of_two(self.__name__, _convert_and_call(function, self.__name__, given, self._function)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Slot)
            and self._function == other._function
            and (self._instance is other._instance or self._instance == other._instance)
        )

    def __hash__(self) -> int:
        return hash(self._function)


def _first_of_two(name: str, value: Any) -> Any:
    # PySide6 returns (chosen, filter); the functions of C++ return what was chosen.
    dialogs = ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getText", "getItem", "getInt", "getDouble")
    return value[0] if name in dialogs and isinstance(value, tuple) else value


def _construct(raw: type, args: tuple[Any, ...]) -> Any:
    return _convert_and_call(raw, raw.__name__, list(args))


def _convert_and_call(function: Any, name: str, args: list[Any], unbound: Any = None) -> Any:
    values = [unwrap(value) for value in args]
    if not _arguments_fit(unbound or function, tuple(type(value) for value in values)):
        raise ValueError(f"Called {name} with wrong arguments: {tuple(args)!r}")
    try:
        return function(*values)
    except (TypeError, ValueError) as error:
        if not _is_mismatch(error, function):
            raise
        mismatch = error
    # PythonQt's second, less strict round: an int for an enum, a text for a QByteArray.
    for candidate in _less_strict(unbound or function, values):
        try:
            return function(*candidate)
        except (TypeError, ValueError) as error:
            if not _is_mismatch(error, function):
                raise
    raise ValueError(f"Called {name} with wrong arguments: {tuple(args)!r}") from mismatch


# Conversions without a word, by what is wanted and what is given (PythonQtConv::handlePythonToQtAutoConversion).
# PySide6 knows many more: a QUrl of a text, a QIcon of a QPixmap.
_CONVERSIONS = {("QPen", "QColor"), ("QBrush", "QColor")}


@functools.cache
def _arguments_fit(function: Any, types: tuple[type, ...]) -> bool:
    """Whether some signature wants just these types, as far as texts, None and Qt's classes go."""
    signatures = _signatures(function)
    return not signatures or any(
        len(parameters) >= len(types) and all(map(_fits, types, parameters)) for parameters in signatures
    )


def _fits(given: type, parameter: inspect.Parameter) -> bool:
    wanted = _kinds(parameter)[0]  # what follows in PySide6's annotations is what it converts
    if not isinstance(wanted, type) or wanted in (object, Any):
        return True
    if given is str:
        return wanted in (str, bytes, QtCore.QByteArray)
    if given is type(None):  # what Python prints of None is no text
        return not issubclass(wanted, (str, int, float))
    if issubclass(given, shiboken6.Shiboken.Object) and issubclass(wanted, shiboken6.Shiboken.Object):
        return issubclass(given, wanted) or (wanted.__name__, given.__name__) in _CONVERSIONS
    return True


def _kinds(parameter: inspect.Parameter) -> tuple[Any, ...]:
    return getattr(parameter.annotation, "__args__", None) or (parameter.annotation,)


@functools.cache
def _signatures(function: Any) -> list[list[inspect.Parameter]]:
    try:
        found = get_signature(function.__init__ if isinstance(function, type) else function)
    except (AttributeError, TypeError):
        return []
    every = found if isinstance(found, list) else [found] if found is not None else []
    return [[p for p in signature.parameters.values() if p.name != "self"] for signature in every]


def _is_mismatch(error: Exception, function: Any) -> bool:
    text = str(error)
    return error.__traceback__.tb_next is None and (
        "called with wrong" in text or " takes " in text or "argument" in text
    )


def _less_strict(function: Any, values: list[Any]) -> list[list[Any]]:
    found = []
    for parameters in _signatures(function):
        if len(parameters) < len(values):
            continue
        candidate = list(values)
        for index, (value, parameter) in enumerate(zip(values, parameters, strict=False)):
            for kind in _kinds(parameter):
                if type(value) is int and isinstance(kind, type) and issubclass(kind, enum.Enum):
                    candidate[index] = kind(value)
                elif isinstance(value, str) and kind is QtCore.QByteArray:
                    candidate[index] = value.encode()
                elif isinstance(value, bytes) and kind is str and "rawHeader" in function.__name__:
                    candidate[index] = value.decode()  # a QByteArray until Qt 6.7
        found.append(candidate)
    return found


# Python classes that derive from Qt's ---------------------------------------------------------------------------------

_shells: dict[type, type] = {}


def _shell(wrapper_class: type) -> type:
    """A class of PySide6 that hands its virtual methods to a Python class derived from a wrapper."""
    if wrapper_class in _shells:
        return _shells[wrapper_class]
    raw = wrapper_class._host_class
    members: dict[str, Any] = {"_host_shell": True}
    for base in wrapper_class.__mro__[: wrapper_class.__mro__.index(_wrappers[raw])]:
        for name, member in base.__dict__.items():
            is_method = isinstance(member, types.FunctionType) and not name.startswith("__")
            if is_method and _method(raw, name) is not _NOTHING:
                members.setdefault(name, _override(name, raw))
    _shells[wrapper_class] = type(raw)(wrapper_class.__name__, (raw,), members)
    return _shells[wrapper_class]


def _override(name: str, raw_class: type) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        wrapper = getattr(self, "_host_wrapper", None)
        if wrapper is None:  # a virtual called by the constructor
            return getattr(raw_class, name)(self, *args)
        try:
            return unwrap(getattr(wrapper, name)(*[wrap(value) for value in args]))
        except Exception as error:
            report(error)
            return None

    method.__name__ = name
    return method


# Signals -------------------------------------------------------------------------------------------------------------

# By address of the sender: its name and (signature, callable, the function that Qt calls) of each connection. They keep
# the callables alive as long as the sender lives, as PythonQtSignalReceiver does.
_connections: dict[int, tuple[str, list[tuple[str, Any, Any]]]] = {}


def connections_to(target: object) -> list[str]:
    """The connections whose callables lead to an object and so keep it alive: class and name of the sender, signal."""
    found = []
    for name, entries in _connections.values():
        found += [f"{name} {signature}" for signature, function, _ in entries if _leads_to(function, target)]
    return found


def _leads_to(start: object, target: object) -> bool:
    seen, waiting = {id(start)}, [start]
    while waiting and len(seen) < 50_000:
        item = waiting.pop()
        if item is target:
            return True
        for other in gc.get_referents(item):
            # What VTK's objects lead to is what observes them, and everything observes the scene.
            if id(other) not in seen and not isinstance(other, (type, types.ModuleType, vtkObjectBase)):
                seen.add(id(other))
                # A function's globals lead everywhere.
                if not (isinstance(other, dict) and isinstance(item, types.FunctionType)):
                    waiting.append(other)
    return False


class BoundSignal:
    """PythonQtSignalFunction: ``button.clicked``, which can be connected, emitted or called."""

    def __init__(self, sender: Instance, name: str) -> None:
        self._sender, self._name = sender, name
        self._signature = _meta(type(sender)._host_class).signals[name][0]

    def connect(self, function: Any) -> bool:
        """Connect a Python callable."""
        return _connect(self._sender, self._signature, function)

    def disconnect(self, *function: Any) -> bool:
        """Disconnect a callable, or all."""
        return _disconnect(self._sender, self._signature, *function)

    def emit(self, *args: Any) -> None:
        """Emit the signal."""
        signal = getattr(self._sender._host_raw, self._name)
        try:
            signal.emit(*[unwrap(value) for value in args])
        except TypeError as error:
            raise ValueError(f"Called {self._name} with wrong arguments: {args!r}") from error

    __call__ = emit


def _normal(signature: str) -> str:
    """Without blanks and const references, as moc writes it (Qt 6 also puts qlonglong for qint64, Qt 5 does not)."""
    name, bracket, rest = signature.lstrip("0123456789").partition("(")
    kinds = [kind.strip() for kind in rest.rpartition(")")[0].split(",")]
    plain = [kind[6:-1].strip() if kind.startswith("const ") and kind.endswith("&") else kind for kind in kinds]
    return f"{name.strip()}{bracket}{','.join(kind.replace(' ', '') for kind in plain)}{')' * bool(bracket)}"


def _resolve(raw_class: type, signal: str) -> str:
    """The signature of a signal in the meta object, where MRML's pointers are Python objects."""
    asked = _normal(signal)
    known = getattr(raw_class, "SIGNATURES", {}).get(asked, asked)
    if known not in _meta(raw_class).signals.get(known.partition("(")[0], ()):
        raise ValueError(f"QObject::connect() signal '{signal}' does not exist on {raw_class.__name__}")
    return known


def _connect(sender: Instance, signal: str, *target: Any) -> bool:
    raw = sender._host_raw
    if not isinstance(signal, str) or not signal:
        raise ValueError(f"connect needs the signal's signature as text, got {signal!r}")
    if not shiboken6.isValid(raw):
        raise ValueError(f"Trying to call 'connect' on a destroyed {type(sender).__name__} object")
    signature = _resolve(type(sender)._host_class, signal)
    if len(target) == 2 and isinstance(target[0], Instance):
        receiver, slot = target
        name = _normal(slot)
        if name not in _meta(type(receiver)._host_class).methods:
            raise ValueError(f"slot '{slot}' does not exist on {receiver.className()}")
        return bool(QtCore.QObject.connect(raw, "2" + signature, receiver._host_raw, "1" + name))
    if len(target) != 1 or not callable(target[0]):
        raise ValueError(f"Called connect with wrong arguments: {(signal, *target)!r}")
    function = target[0]

    def call(*args: Any) -> None:
        _call_back(function, args)

    address = shiboken6.getCppPointer(raw)[0]
    if address not in _connections:
        _connections[address] = (f"{type(sender).__name__} {raw.objectName()!r}", [])
        raw.destroyed.connect(functools.partial(_connections.pop, address, None))
    _connections[address][1].append((signature, function, call))
    return bool(QtCore.QObject.connect(raw, "2" + signature, call))


def _disconnect(sender: Instance, signal: str, *target: Any) -> bool:
    raw = sender._host_raw
    signature = _resolve(type(sender)._host_class, signal)
    targets = _connections.get(shiboken6.getCppPointer(raw)[0], ("", []))[1]
    found = [entry for entry in targets if entry[0] == signature and (not target or entry[1] == target[0])]
    for entry in found[:1] if target else found:
        QtCore.QObject.disconnect(raw, "2" + signature, entry[2])
        targets.remove(entry)
    return bool(found)


def _call_back(function: Any, args: tuple[Any, ...]) -> None:
    """PythonQtSignalTarget::call: as many arguments as the callable declares; exceptions are printed, not passed on."""
    values = [wrap(value) for value in args]
    plain = function.__func__ if isinstance(function, types.MethodType) else function
    if isinstance(plain, types.FunctionType) and not plain.__code__.co_flags & 0x04:
        count = plain.__code__.co_argcount - isinstance(function, types.MethodType)
        values = values[:count]
    try:
        function(*values)
    except Exception as error:
        report(error)


def _find(raw: Any, name: str, kind: Any = None, object_name: str = "") -> Any:
    """PythonQtStdDecorators::findChild: a class or a class's name, and an object name."""
    matches = []
    for child in raw.findChildren(QtCore.QObject):
        wanted = kind if isinstance(kind, str) else kind._host_class.__name__
        if child.inherits(wanted) and (not object_name or child.objectName() == object_name):
            matches.append(wrap(child))
    return tuple(matches) if name == "findChildren" else next(iter(matches), None)
