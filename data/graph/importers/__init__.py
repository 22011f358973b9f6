"""One small reader per public source of medical knowledge; `registry.py` lists them."""
