"""Who generates?"""
