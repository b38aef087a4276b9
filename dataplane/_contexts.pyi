class Context: ...

class Contexts:
    def upstream(
        self,
        verify: bool,
        depth: int | None,
        authorities: tuple[bytes, ...] | None,
        pair: tuple[bytes, bytes] | None,
    ) -> Context: ...
