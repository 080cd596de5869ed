"""Encoders: raw examples (pictures, sentences) -> vectors, computed once for a whole data set and cached.

One encoder, one file. An encoder is frozen: no gradient reaches it, and its vectors do not depend on the task.
"""
