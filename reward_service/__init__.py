"""Is this completion right?"""
