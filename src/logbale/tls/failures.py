"""What went wrong with TLS on a connection: OpenSSL's reasons as sentences that say what to do. No I/O."""

from __future__ import annotations

import ssl

_EXPIRED = 10
_NOT_YET_VALID = 9
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21, 24}
"""No issuer in the CA file, self-signed, or signed by what is no CA."""
_OTHER_NAME = {62, 63, 64}
"""X509_V_ERR of the same names."""

_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "BAD_RECORD_TYPE", "PACKET_LENGTH_TOO_LONG")
_NO_TLS_THERE = "set TLS_CERT_FILE at the receiver, or leave TLS_CA_FILE out here"
_OLD = ("UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE", "PROTOCOL_VERSION")


class TLSError(ConnectionError):
    """TLS could not be had on a connection: the text says why and what to do, `reason` under what that is counted."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def plaintext() -> TLSError:
    """The receiver's: what came is no TLS."""
    return TLSError(
        "tls_plaintext", "it speaks no TLS: set TLS_CA_FILE there, or leave TLS_CERT_FILE out here if that is wanted"
    )


def too_slow(seconds: float) -> TLSError:
    """Either end's: the handshake does not end."""
    return TLSError("tls_timeout", f"no TLS handshake within {seconds:g} s")


def at_receiver(error: ssl.SSLError) -> TLSError:
    """Why a handshake with a client failed."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TLSError("tls_bad_certificate", f"its certificate {_client_certificate(error)}")
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return TLSError("tls_no_certificate", "it has no client certificate: set TLS_CERT_FILE and TLS_KEY_FILE there")
    if any(old in reason for old in _OLD):
        return TLSError("tls_handshake", f"no TLS version from 1.2 on, or no cipher, in common ({reason})")
    alert = _alert(error)
    if "certificate" in alert or alert == "unknown ca":
        return TLSError("tls_refused", f"it does not accept this receiver's certificate (it says {alert})")
    return TLSError("tls_handshake", f"it says {alert}" if alert else f"TLS failed ({reason or error})")


def _client_certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return "has expired: renew it there"
    if error.verify_code == _NOT_YET_VALID:
        return "is not valid yet: compare both machines' clocks"
    if error.verify_code in _UNKNOWN_ISSUER:
        return "is not from a CA in TLS_CLIENT_CA_FILE"
    return f"is refused: {error.verify_message}"


def at_shipper(error: ssl.SSLError, host: str, ca: str) -> TLSError:
    """Why there is no TLS with the receiver at `host`; `ca` is what TLS_CA_FILE says."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TLSError("tls_untrusted", _receiver_certificate(error, host, ca))
    if any(sign in reason for sign in _NOT_TLS):
        return TLSError("tls_handshake", f"what answers at {host} speaks no TLS: {_NO_TLS_THERE}")
    if "PROTOCOL_VERSION" in reason:
        return TLSError("tls_handshake", f"no TLS version from 1.2 on in common with {host}")
    alert = _alert(error)
    if "certificate" in alert or alert in ("unknown ca", "handshake failure"):
        return TLSError("tls_refused", _refused(alert))
    return TLSError("tls_handshake", f"TLS with {host} failed ({f'it says {alert}' if alert else reason or error})")


def gone_in_handshake(host: str) -> TLSError:
    """The shipper's: nothing but an end came back."""
    return TLSError(
        "tls_handshake",
        f"{host} closed the connection in the TLS handshake: its log may say why, or it speaks no TLS: {_NO_TLS_THERE}",
    )


def _receiver_certificate(error: ssl.SSLCertVerificationError, host: str, ca: str) -> str:
    if error.verify_code == _EXPIRED:
        return f"the certificate of {host} has expired: renew it there"
    if error.verify_code == _NOT_YET_VALID:
        return f"the certificate of {host} is not valid yet: compare both machines' clocks"
    if error.verify_code in _OTHER_NAME:
        return (
            f"the certificate there is not for {host}: connect by a name that it has (--to), or give the receiver one "
            "for this name"
        )
    if error.verify_code in _UNKNOWN_ISSUER:
        return f"the certificate of {host} is not from a CA in TLS_CA_FILE={ca}: another CA, or somebody else answers"
    return f"the certificate of {host} is refused: {error.verify_message}"


def _refused(alert: str) -> str:
    if alert in ("certificate required", "handshake failure"):
        return "the receiver demands a client certificate: set TLS_CERT_FILE and TLS_KEY_FILE"
    if alert == "certificate expired":
        return "the receiver says that TLS_CERT_FILE has expired: renew it"
    if alert == "unknown ca":
        return "the receiver does not know the CA of TLS_CERT_FILE: its TLS_CLIENT_CA_FILE has another"
    return f"the receiver refuses TLS_CERT_FILE: it says {alert}"


def _alert(error: ssl.SSLError) -> str:
    """What the peer's alert says, such as `unknown ca`; "" where there was none."""
    return (error.reason or "").partition("_ALERT_")[2].replace("_", " ").lower()
