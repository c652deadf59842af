"""The original format, TBDIFFv0 of Baserock: read, applied within bounds, and written for its own deploy tool."""
