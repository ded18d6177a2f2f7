"""Tokens as texts of their own, in the way of OpenAI's API: bytes that are no text are named."""

from __future__ import annotations

from tokenizers import Tokenizer

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def _signs() -> dict[str, int]:
    """Return the byte that each sign of byte-level tokenizers stands for: printable ones for themselves."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


_BYTES = _signs()


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text, such as `` the``, or its bytes where they are no text, such as ``bytes:\\xe2\\x82``."""
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    if _UNKNOWN not in text:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes(tokenizer, token))


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """Return a token's bytes."""
    symbol = tokenizer.id_to_token(token) or ""
    if all(sign in _BYTES for sign in symbol) and token not in tokenizer.get_added_tokens_decoder():
        return bytes(_BYTES[sign] for sign in symbol)
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    return text.encode()
