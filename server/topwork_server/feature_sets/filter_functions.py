"""The functions that a filter may call, none of which makes much out of little: their arguments, results, and Lance's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.filter_parser import ADD, MULTIPLY
from topwork_server.feature_sets.filter_values import NUMBERS, FilterValue, ValueType, as_float, parse_time, time_constant

DAY = 86_400_000_000
#: Parts of a time.
PARTS = frozenset(
    "year quarter month week day doy dow isodow hour minute second millisecond microsecond epoch "
    "milliseconds microseconds seconds minutes hours days weeks months quarters years".split()
)
TRUNCATED = frozenset("year quarter month week day hour minute second millisecond microsecond".split())


def timestamp(value: FilterValue) -> str:
    """Write a time in microseconds as Lance's functions take it."""
    return f"to_timestamp_micros({value.sql})"


@dataclass(frozen=True, slots=True)
class FilterFunction:
    """`takes` has a letter an argument: s(tring), n(umber), i(nt), t(ime), l(ist of strings), e(lement of one), x (any);
    those behind ? may be left out, and the one before * may come again."""

    takes: str
    make: Callable[[str, Sequence[FilterValue]], FilterValue]


def _sql_call(type: ValueType) -> Callable[[str, Sequence[FilterValue]], FilterValue]:
    cast = {ValueType.INT: "BIGINT", ValueType.FLOAT: "DOUBLE"}.get(type)

    def make(name: str, args: Sequence[FilterValue]) -> FilterValue:
        sql = f"`{name}`({', '.join(arg.sql for arg in args)})"
        return FilterValue(f"CAST({sql} AS {cast})" if cast else sql, type, name=f"{name}()")

    return make


def _abs(name: str, args: Sequence[FilterValue]) -> FilterValue:
    return _sql_call(args[0].type)(name, args)


def _same_type_call(name: str, args: Sequence[FilterValue]) -> FilterValue:
    """Compile coalesce and nullif, whose arguments are of one type."""
    kinds = {arg.type for arg in args} - {ValueType.NULL}
    if kinds == set(NUMBERS):
        args, kinds = [as_float(arg) if arg.type in NUMBERS else arg for arg in args], {ValueType.FLOAT}
    if ValueType.TIME in kinds and kinds <= {ValueType.TIME, ValueType.STRING}:
        args = [time_constant(parse_time(arg.constant)) if isinstance(arg.constant, str) else arg for arg in args]
        kinds = {arg.type for arg in args} - {ValueType.NULL}
    if len(kinds) > 1:
        raise InvalidInput(f"{name} takes values of one type, not {', '.join(map(str, args))}", remedy="cast them to one type")
    (kind,) = kinds or {ValueType.NULL}
    sql = f"{name}({', '.join('NULL' if arg.type is ValueType.NULL else arg.sql for arg in args)})"
    return FilterValue(sql, kind, name=f"{name}()")


def _date_part(name: str, args: Sequence[FilterValue]) -> FilterValue:
    part = _check_part(name, args[0], PARTS)
    return FilterValue(f"CAST(date_part('{part}', {timestamp(args[1])}) AS DOUBLE)", ValueType.FLOAT, name=f"{name}()")


def truncate_time(unit: str, value: FilterValue) -> FilterValue:
    return FilterValue(
        f"CAST(date_trunc('{unit}', {timestamp(value)}) AS BIGINT)", ValueType.TIME, name=f"the {unit} of {value.name}"
    )


def _date_trunc(name: str, args: Sequence[FilterValue]) -> FilterValue:
    return truncate_time(_check_part(name, args[0], TRUNCATED), args[1])


def _check_part(name: str, value: FilterValue, known: frozenset[str]) -> str:
    found = value.constant.lower() if isinstance(value.constant, str) else ""
    if found not in known:
        raise InvalidInput(f"{name} has no part {value}", remedy=f"there are {', '.join(sorted(known))}")
    return found


def as_time(value: FilterValue) -> FilterValue:
    """Read a text as a time."""
    if value.type is ValueType.TIME:
        return value
    if isinstance(value.constant, str):
        return time_constant(parse_time(value.constant))
    if value.type is not ValueType.STRING:
        raise InvalidInput(f"{value} is not a time", remedy="to_timestamp_seconds(n) reads a number as seconds since 1970")
    return FilterValue(f"CAST({timestamp(value)} AS BIGINT)", ValueType.TIME, name=value.name)


def as_date(value: FilterValue) -> FilterValue:
    found = as_time(value)
    if found.constant is not None:
        return time_constant(int(found.constant) // DAY * DAY)
    return truncate_time("day", found)


def _epoch_call(micros: int) -> Callable[[str, Sequence[FilterValue]], FilterValue]:
    """Numbers of so many microseconds each; texts are read as times."""

    def make(name: str, args: Sequence[FilterValue]) -> FilterValue:
        value = args[0]
        if value.type not in NUMBERS:
            return as_time(value)
        if micros == 1:
            return FilterValue(value.sql, ValueType.TIME, value.power, name=value.name)
        return FilterValue(f"CAST({value.as_operand(MULTIPLY)} * {micros} AS BIGINT)", ValueType.TIME, name=value.name)

    return make


def _to_date(name: str, args: Sequence[FilterValue]) -> FilterValue:
    return as_date(args[0])


def _trim(name: str, args: Sequence[FilterValue]) -> FilterValue:
    return _sql_call(ValueType.STRING)("btrim", args)


def _array_has(name: str, args: Sequence[FilterValue]) -> FilterValue:
    return _sql_call(ValueType.BOOL)("array_has", args)


def _length_of_list(name: str, args: Sequence[FilterValue]) -> FilterValue:
    return _sql_call(ValueType.INT)("array_length", args)


STRING, BOOL, INT, FLOAT = map(_sql_call, (ValueType.STRING, ValueType.BOOL, ValueType.INT, ValueType.FLOAT))
FUNCTIONS: dict[str, FilterFunction] = {
    "abs": FilterFunction("n", _abs),
    **{name: FilterFunction("n", FLOAT) for name in ("ceil", "floor", "exp", "ln", "log10", "log2", "sqrt")},
    **{name: FilterFunction("n?i", FLOAT) for name in ("round", "trunc")},
    "power": FilterFunction("nn", FLOAT),
    **{name: FilterFunction("s", STRING) for name in ("lower", "upper")},
    **{name: FilterFunction("s?s", STRING) for name in ("btrim", "ltrim", "rtrim")},
    "trim": FilterFunction("s", _trim),
    **{name: FilterFunction("s", INT) for name in ("length", "char_length", "octet_length")},
    **{name: FilterFunction("si?i", _sql_call(ValueType.STRING)) for name in ("substr", "substring")},
    **{name: FilterFunction("ss", BOOL) for name in ("contains", "starts_with", "ends_with")},
    "regexp_like": FilterFunction("ss?s", BOOL),
    "regexp_match": FilterFunction("ss?s", _sql_call(ValueType.STRINGS)),
    **{name: FilterFunction("ss", INT) for name in ("strpos", "position")},
    **{name: FilterFunction("le", _array_has) for name in ("array_has", "array_contains")},
    **{name: FilterFunction("ll", BOOL) for name in ("array_has_all", "array_has_any")},
    **{name: FilterFunction("l", _length_of_list) for name in ("array_length", "cardinality")},
    "coalesce": FilterFunction("x*", _same_type_call),
    "nullif": FilterFunction("xx", _same_type_call),
    "date_part": FilterFunction("st", _date_part),
    "date_trunc": FilterFunction("st", _date_trunc),
    "to_date": FilterFunction("x", _to_date),
    "to_timestamp": FilterFunction("x", _epoch_call(1_000_000)),
    "to_timestamp_seconds": FilterFunction("x", _epoch_call(1_000_000)),
    "to_timestamp_millis": FilterFunction("x", _epoch_call(1000)),
    "to_timestamp_micros": FilterFunction("x", _epoch_call(1)),
}
_KINDS = {
    "s": (ValueType.STRING,),
    "e": (ValueType.STRING,),
    "n": NUMBERS,
    "i": (ValueType.INT,),
    "t": (ValueType.TIME,),
    "l": (ValueType.STRINGS,),
}
NAMES = sorted([*FUNCTIONS, "cast", "extract", "now", "try_cast"])


def call_function(name: str, args: Sequence[FilterValue]) -> FilterValue:
    """The call of a function. InvalidInput for one that filters have not, and for arguments that it does not take."""
    function = FUNCTIONS.get(name)
    if function is None:
        raise InvalidInput(f"filters have no function {name[:60]!r}", remedy=f"there are {', '.join(NAMES)}")
    return function.make(name, _check_arguments(name, function.takes, args))


def _check_arguments(name: str, takes: str, args: Sequence[FilterValue]) -> list[FilterValue]:
    letters = takes.replace("?", "").replace("*", "")
    least, most = len(takes.split("?")[0].rstrip("*")), len(args) if "*" in takes else len(letters)
    if not least <= len(args) <= max(most, least):
        expected = f"{least}" if least == most else f"{least} or more" if "*" in takes else f"{least} or {most}"
        raise InvalidInput(f"{name} has {len(args)} arguments", remedy=f"it takes {expected}")
    return [_argument(name, letters[min(i, len(letters) - 1)], arg) for i, arg in enumerate(args)]


def _argument(name: str, letter: str, arg: FilterValue) -> FilterValue:
    if letter == "x":
        return arg
    if letter == "t" and arg.type is ValueType.STRING:
        return as_time(arg)
    if letter == "i" and isinstance(arg.constant, int):
        return arg
    if arg.type not in _KINDS[letter]:
        expected = " or ".join(kind.value for kind in _KINDS[letter])
        raise InvalidInput(f"{name} takes {expected} there, and is given {arg}", remedy="pass another column, or cast it")
    return arg


_CASTS = {
    **dict.fromkeys(("int", "integer", "bigint", "smallint", "tinyint", "int8", "int4", "int64", "int32"), ValueType.INT),
    **dict.fromkeys(("double", "float", "real", "decimal", "numeric", "float8", "float4", "float64", "float32"), ValueType.FLOAT),
    **dict.fromkeys(("varchar", "text", "string", "char", "utf8"), ValueType.STRING),
    **dict.fromkeys(("bool", "boolean"), ValueType.BOOL),
    **dict.fromkeys(("timestamp", "timestamptz", "datetime", "date"), ValueType.TIME),
}
_SQL_TYPES = {ValueType.INT: "BIGINT", ValueType.FLOAT: "DOUBLE", ValueType.STRING: "STRING", ValueType.BOOL: "BOOLEAN"}


def cast(kind: str, value: FilterValue, type_name: str) -> FilterValue:
    """Convert a value. `kind` is cast, or try_cast: NULL for what does not convert."""
    type = _CASTS.get(re.sub(r"\W.*", "", type_name))
    if type is None:
        raise InvalidInput(
            f"filters have no type {type_name[:60]!r}", remedy="cast to int, double, string, bool, timestamp or date"
        )
    if type is ValueType.TIME:
        return as_date(value) if type_name == "date" else as_time(value)
    if value.type in (ValueType.STRINGS, ValueType.INTERVAL) or (value.type is ValueType.TIME and type is not ValueType.STRING):
        raise InvalidInput(f"{value} does not become {type.value}", remedy="date_part('epoch', t) gives the seconds of a time")
    sql = "NULL" if value.type is ValueType.NULL else timestamp(value) if value.type is ValueType.TIME else value.sql
    return FilterValue(f"{kind}({sql} AS {_SQL_TYPES[type]})", type, name=f"{value.name} as {type.value}")


def arithmetic(operator: str, left: FilterValue, right: FilterValue) -> FilterValue:
    """Numbers, and times with intervals."""
    power = ADD if operator in "+-" else MULTIPLY
    type = _result_type(operator, left, right)
    if type in (ValueType.TIME, ValueType.INTERVAL) and left.constant is not None and right.constant is not None:
        return time_constant(_fold_constants(operator, left.constant, right.constant), type)
    # Of operators of equal power the right one keeps its parentheses: a - (b - c).
    sql = f"{left.sql if left.power >= power else f'({left.sql})'} {operator} {right.as_operand(power)}"
    return FilterValue(sql, type, power, name=f"a {type.value} made by {operator}")


def _fold_constants(operator: str, left: int, right: int) -> int:
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def _result_type(operator: str, left: FilterValue, right: FilterValue) -> ValueType:
    kinds = (left.type, right.type)
    if all(kind in NUMBERS for kind in kinds):
        return ValueType.FLOAT if ValueType.FLOAT in kinds else ValueType.INT
    if operator in "+-" and kinds[1] is ValueType.INTERVAL and kinds[0] in (ValueType.TIME, ValueType.INTERVAL):
        return kinds[0]
    if operator == "+" and kinds == (ValueType.INTERVAL, ValueType.TIME):
        return ValueType.TIME
    if operator == "-" and kinds == (ValueType.TIME, ValueType.TIME):
        return ValueType.INTERVAL
    if operator == "*" and set(kinds) == {ValueType.INTERVAL, ValueType.INT}:
        return ValueType.INTERVAL
    raise InvalidInput(
        f"the filter computes {left} {operator} {right}", remedy="numbers go with numbers, and times with interval '1 day'"
    )
