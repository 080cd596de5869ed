def write(scores, out): pass
