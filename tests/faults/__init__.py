"""The fault matrix, over real sockets. ``matrix`` lists the tests of each row."""

import pytest

pytest.register_assert_rewrite("tests.faults.bench")
