"""HTTPS: can the certificate be used. Imported before anything is started, so imports little."""

import ssl

from services.errors import StartupError
from services.settings import Settings


def check_certificate(settings: Settings) -> None:
    """StartupError if HTTPS is wanted and its certificate or key cannot be used."""
    if settings.tls_cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_cert, settings.tls_key, password=_no_password
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartupError(
            f"{settings.tls_cert} and {settings.tls_key} cannot be used for HTTPS ({reason})."
        ) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")
