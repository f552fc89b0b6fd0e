"""What is said of a black box once, and not again."""

import logging
from weakref import WeakKeyDictionary

logger = logging.getLogger("deepzero_jax")
_told: WeakKeyDictionary[object, set[str]] = WeakKeyDictionary()


def is_told(box: object, kind: str) -> bool:
    """Whether something of that kind has been said of a box."""
    return kind in _told.get(box, ())


def tell_once(box: object, kind: str, words: str) -> None:
    """Warns of a box, unless something of that kind has been said of it."""
    if not is_told(box, kind):
        _told.setdefault(box, set()).add(kind)
        logger.warning(words)
