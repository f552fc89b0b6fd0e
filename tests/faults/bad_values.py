"""Every kind of bad value for every field of a record, made from what the fields declare."""

from typing import Literal, get_args, get_origin

from deepzero_jax.fields import OneOf, Range, Readable, fields_of

HUGE = "1" + "0" * 400
WRONG_NUMBERS = (HUGE, "nan", "inf", "-inf", "many", "1e999", "0x10", "")
WRONG_INTEGERS = (HUGE, "nan", "inf", "1.5", "many", "1e3", str(2**63), str(-(2**63)), "")


def beyond(allowed):
    """Numbers just outside an interval."""
    if allowed.above is not None:
        yield from (allowed.above, allowed.above - 1)
    if allowed.at_least is not None:
        yield allowed.at_least - 1
    if allowed.below is not None:
        yield from (allowed.below, 10 * allowed.below + 1)
    if allowed.at_most is not None:
        yield 2 * allowed.at_most + 1
    if allowed.odd:
        yield 4


def bad_texts(item):
    """Texts that a field must refuse."""
    kinds, allowed = set(item.kinds), item.setting.allowed
    tuples = [kind for kind in kinds if get_origin(kind) is tuple]
    if bool in kinds:
        yield from ("maybe", "1", "nan", "")
    elif tuples:
        element = get_args(tuples[0])[0]
        yield from ("a, b", ",", "") if element is float else ("nonsense", "", ",")
        if isinstance(allowed, Range):
            yield from (f"1, {number}" for number in beyond(allowed))
            yield from ("1, nan", "inf", "1e39")
    elif any(get_origin(kind) is Literal for kind in kinds):
        yield from ("nonsense", "", "Difference ")
        if float in kinds:
            yield from ("nan", "inf", "0", "-1", "1e-50", "1e39")
    elif isinstance(allowed, OneOf):
        yield from ("nonsense", "", "os:nonsense", "nonsense:main", ":", "a:")
    elif isinstance(allowed, Readable) and str in kinds:
        yield from ("nonsense", "", "-1", "0", "99999999999999999999 epochs", "1e-7", "nan s")
    elif int in kinds and float not in kinds and str not in kinds:
        yield from WRONG_INTEGERS
        yield from (str(int(number)) for number in beyond(allowed)) if allowed else ()
    elif float in kinds:
        yield from WRONG_NUMBERS
        if isinstance(allowed, Range):
            yield from map(repr, beyond(allowed))
            yield from ("1e-320", "1e39")
        elif allowed is not None:
            yield from ("0", "-1", "1e-50", "1e39")


def cases(schema):
    """``(path, text)`` for every field of a schema and every bad text of it, once."""
    for item in fields_of(schema):
        for text in dict.fromkeys(bad_texts(item)):
            yield item.path, text
