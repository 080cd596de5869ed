"""`python -m metaexp.audit`."""

from metaexp.audit.command import main

main()
