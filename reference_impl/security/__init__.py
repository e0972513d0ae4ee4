"""Who the other end is, and what nobody else may read: identities, handshakes, channels. Bytes in, bytes out."""
