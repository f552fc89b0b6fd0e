"""Keys of any generator, checked, and as states that a checkpoint holds."""

import jax

from deepzero_jax.pages import see
from deepzero_jax.types import Key

_GENERATOR = "threefry2x32"


def check_key(key: Key | None, drawing: str) -> Key:
    """The key, if it is one PRNG key; otherwise a ValueError, where ``drawing`` wants a key."""
    if key is None:
        raise ValueError(f"{drawing}: pass key=jax.random.key(…){see('key')}")
    try:
        shape = jax.random.key_data(key).shape[:-1]
    except TypeError:
        raise ValueError(f"key must be a PRNG key, jax.random.key(…), got {key!r}") from None
    if shape:
        raise ValueError(f"key must be one PRNG key, got {list(shape)} of them")
    return key


def threefry(key: Key) -> Key:
    """A key of threefry: ``key``, or one that takes the words of another generator's.

    Bits of other generators depend on what is drawn beside them, and on the backend.

    Example:
      >>> jax.random.key_impl(threefry(jax.random.key(0, impl="rbg")))
      'threefry2x32'
    """
    if jax.random.key_impl(key) == _GENERATOR:
        return key
    words = jax.random.key_data(key)
    start = jax.random.wrap_key_data(words[:2], impl=_GENERATOR)
    for word in words[2:]:
        start = jax.random.fold_in(start, word)
    return start


def words_of(key: Key) -> jax.Array:
    """What a state keeps of a key, whatever its generator: uint32 [2]."""
    return jax.random.key_data(threefry(key))


def key_of(words: jax.Array) -> Key:
    """The key that ``words_of`` made these words of."""
    return jax.random.wrap_key_data(words, impl=_GENERATOR)
