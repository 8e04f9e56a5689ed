"""The fault matrix, over real sockets. ``matrix`` says which test holds which row."""

import pytest

pytest.register_assert_rewrite("tests.faults.bench")
