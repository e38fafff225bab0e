"""The blocks of a tar that is written as it comes: `TarFile` remembers each of its members."""

from __future__ import annotations

import tarfile


def tar_member(name: str, content: bytes) -> bytes:
    """Header and content of a file; time and owner are zero, so that the bytes depend on these alone."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def tar_end(num_bytes: int) -> bytes:
    """What ends a tar whose members take `num_bytes`."""
    end = num_bytes + 2 * tarfile.BLOCKSIZE
    return bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE)
