"""What holds for all tests: neither time nor chance decides one.

Properties are tried on the same examples every time. Others are looked for with
`pytest --hypothesis-profile=explore`; what is found becomes a case of its own.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("explore", deadline=None)
settings.register_profile("sterling", deadline=None, derandomize=True)
settings.load_profile("sterling")
