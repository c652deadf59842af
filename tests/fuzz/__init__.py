"""Decoders of what strangers may send: any bytes are understood, or refused in a sentence."""
