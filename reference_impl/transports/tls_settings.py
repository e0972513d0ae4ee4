"""Settings of TLS, apart from TLS itself: only those who use it should pay for loading it (4 MB, 50 ms)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """`authority`: PEM of the study's certificate authority, certificate and key. Default empty: a node makes one of
    its own and states it in its ready line; a dialer without one does not dial TLS.
    """

    authority: str = ""

    def __post_init__(self) -> None:
        if self.authority:
            from reference_impl.security.certificates import Authority

            Authority.from_pem(self.authority)
