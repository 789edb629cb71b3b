from ..checks import Array

class Parser:
    rows: int
    entries: int
    lines: int
    queries: tuple[int, int]
    lowest: int
    highest: int
    at: int
    wrong: tuple[int, int, int]
    def __init__(self, form: int, least: int, most: int, slots: int, signs: bool, constant: bool) -> None: ...
    def restart(self) -> None: ...
    def parse(
        self,
        text: bytes | bytearray,
        start: int,
        stop: int,
        labels: Array,
        indptr: Array,
        indices: Array,
        data: Array,
        weights: Array | None = None,
        queries: Array | None = None,
        fields: Array | None = None,
    ) -> int: ...

def murmur(key: bytes, seed: int = 0) -> int: ...
