"""The fault matrix: each row, the fault in few words, and the tests that hold it.

A test is named as pytest names it, without its parameters: the file below tests/, then the function; all of a file
where no function is named. A row without tests says why.
"""

from __future__ import annotations

from dataclasses import dataclass

LATER = "not applicable yet: "


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    fault: str
    tests: tuple[str, ...] = ()
    without: str = ""


def row(number: int, fault: str, *tests: str, without: str = "") -> Row:
    return Row(number, fault, tests, without)


CALLERS, STRICT, SLOW = "faults/test_callers.py::", "test_strict_input.py::", "test_slow_clients.py::"
CONNECTIONS, ANSWERS = "faults/test_connections.py::", "faults/test_answers.py::"
FRAMING, STREAMS, CROWDS = "faults/test_framing.py::", "faults/test_streams.py::", "faults/test_crowds.py::"
GATEWAY, UPSTREAMS, PROCESS = "test_gateway.py::", "test_upstreams.py::", "test_process.py::"
USAGE, STORE = "test_usage.py::", "test_store.py::"
JSON = STRICT + "test_json_that_is_none_is_a_400_that_says_why"
TARGET = STRICT + "test_fields_that_would_move_the_target_never_pass"

ROWS: tuple[Row, ...] = (
    row(
        1,
        "no, wrong or odd caller's key",
        "test_keys.py",
        GATEWAY + "test_callers_keys",
        STRICT + "test_two_keys_are_none",
    ),
    row(2, "key in the query", STRICT + "test_a_key_in_the_query_is_refused_and_logged_nowhere"),
    row(3, "body not JSON, truncated, NUL, UTF-16", JSON, "fuzz/test_json.py"),
    row(4, "100,000 deep", JSON),
    row(5, "NaN, Infinity, 1e999, 20,000 digits", JSON),
    row(6, "keys that come twice", JSON, STRICT + "test_keys_that_come_twice_are_found_and_no_others"),
    row(7, "half a surrogate pair, NUL escaped", JSON, STRICT + "test_a_nul_that_is_escaped_goes_on_escaped"),
    row(
        8,
        "odd model names",
        STRICT + "test_a_models_name_that_none_has",
        "test_routing.py::test_any_name_has_a_route_or_an_error_of_one_printable_line",
    ),
    row(9, "body declared too large", CALLERS + "test_a_body_declared_too_large_is_refused_before_it_comes"),
    row(10, "chunked body too large", CALLERS + "test_a_body_in_chunks_is_refused_at_the_limit"),
    row(11, "gzip bomb as a request", CALLERS + "test_a_packed_body_is_refused_before_it_comes"),
    row(12, "huge body without a key", CALLERS + "test_a_stranger_is_refused_before_his_body_comes"),
    row(
        13,
        "other content types, multipart",
        CALLERS + "test_any_content_type_is_read_as_json",
        CALLERS + "test_a_form_in_parts_is_refused",
    ),
    row(
        14,
        "slow or silent heads",
        SLOW + "test_who_says_nothing_is_cut_off_without_a_word",
        SLOW + "test_a_head_that_dribbles_in_is_refused_when_its_time_is_up",
        SLOW + "test_300_dribblers_and_silent_ones_starve_nobody",
    ),
    row(15, "slow bodies", SLOW + "test_a_body_that_dribbles_in_is_refused_when_its_time_is_up"),
    row(
        16,
        "slow readers",
        SLOW + "test_a_reader_who_stands_still_stops_the_upstream",
        SLOW + "test_a_reader_who_stands_still_is_cut_off_and_his_upstream_closed",
    ),
    row(
        17,
        "caller leaves in a stream",
        GATEWAY + "test_a_caller_who_leaves_mid_stream_closes_the_upstream_within_a_second",
    ),
    row(
        18,
        "caller leaves before the answer",
        GATEWAY + "test_a_caller_who_leaves_before_the_answer_closes_the_upstream_within_a_second",
    ),
    row(
        19,
        "two ends of one request",
        STRICT + "test_a_request_with_two_ends_is_refused_and_what_hides_behind_it_never_runs",
        STRICT + "test_a_bad_chunk_after_good_ones_is_refused_too",
    ),
    row(20, "pipelining", STRICT + "test_pipelined_requests_are_answered_in_order"),
    row(21, "giant head, 20,000 headers", STRICT + "test_a_head_has_at_most_64_kilobytes_and_100_headers"),
    row(22, "odd request targets", STRICT + "test_a_path_leads_to_an_endpoint_or_nowhere"),
    row(23, "base_url, URLs to inside", TARGET, CALLERS + "test_the_gateway_fetches_nothing_that_a_caller_names"),
    row(24, "headers smuggled upstream", STRICT + "test_no_header_of_the_caller_goes_upstream"),
    row(25, "forged lines in the log", CALLERS + "test_what_callers_send_forges_no_line_of_the_log", "test_logs.py"),
    row(26, "label flooding", without=LATER + "there are no metrics"),
    row(27, "rate limits of callers", without=LATER + "callers have no limits"),
    row(28, "50 calls at the last cent", without=LATER + "callers have no budgets"),
    row(
        29,
        "connection refused by both",
        CONNECTIONS + "test_refused_by_both",
        CONNECTIONS + "test_refused_or_silent_is_not_seen_where_another_answers",
        CONNECTIONS + "test_deepsearch_goes_elsewhere_where_nothing_was_sent",
        CONNECTIONS + "test_a_host_that_has_no_address",
    ),
    row(30, "connection hangs", CONNECTIONS + "test_a_connection_that_is_never_made"),
    row(
        31,
        "wrong certificate",
        CONNECTIONS + "test_a_wrong_certificate_is_sent_nothing",
        CONNECTIONS + "test_an_unknown_authority_is_sent_nothing",
        CONNECTIONS + "test_an_authority_of_ones_own_is_known_by_ca_file",
        CONNECTIONS + "test_no_tls_where_there_should_be",
        CONNECTIONS + "test_tls_where_there_should_be_none",
    ),
    row(
        32,
        "closed, reset",
        CONNECTIONS + "test_gone_as_soon_as_connected",
        CONNECTIONS + "test_gone_after_the_request",
        CONNECTIONS + "test_gone_once_is_not_seen",
        CONNECTIONS + "test_gone_deepsearch_is_not_begun_again",
    ),
    row(
        33,
        "pooled connection closed while idle",
        CONNECTIONS + "test_a_connection_that_was_closed_while_idle_is_not_used",
        CONNECTIONS + "test_a_connection_that_is_closed_as_it_is_used_again",
        "test_engines.py::test_what_came_unseen_on_an_idle_connection_spoils_it",
    ),
    row(
        34,
        "no head in time",
        CONNECTIONS + "test_no_head_in_time",
        CONNECTIONS + "test_no_head_in_time_from_deepsearch",
        CONNECTIONS + "test_no_head_in_time_is_not_seen_where_another_answers",
        CONNECTIONS + "test_an_interim_answer_is_none",
        CONNECTIONS + "test_a_flood_of_interim_answers_is_given_up_on",
    ),
    row(35, "not HTTP, giant heads", CONNECTIONS + "test_no_http", CONNECTIONS + "test_giant_heads"),
    row(36, "400, 404, 413, 422 in any shape", ANSWERS + "test_the_callers_mistake_in_any_shape", "test_failures.py"),
    row(37, "401, 403", ANSWERS + "test_a_refused_key", "test_pool.py::test_one_sick_key_is_not_seen_by_callers"),
    row(38, "402, quota", ANSWERS + "test_an_empty_account"),
    row(39, "429", ANSWERS + "test_a_rate_limit", ANSWERS + "test_a_rate_limit_at_both_tells_the_sooner"),
    row(
        40,
        "5xx",
        ANSWERS + "test_a_failure_of_the_upstream",
        ANSWERS + "test_a_failure_of_deepsearch_is_not_repeated_unless_it_was_refused",
        ANSWERS + "test_the_time_to_come_back_of_a_503_is_kept",
    ),
    row(41, "redirect", ANSWERS + "test_a_redirect_is_followed_nowhere"),
    row(
        42,
        "error sent as an answer",
        ANSWERS + "test_an_error_sent_as_an_answer",
        ANSWERS + "test_deepsearchs_finish_reason_error",
        ANSWERS + "test_another_models_finish_reason_error",
        ANSWERS + "test_an_empty_account",
    ),
    row(
        43,
        "200 empty, 204, null, list, HTML",
        ANSWERS + "test_an_answer_that_is_none",
        ANSWERS + "test_a_chat_answer_that_is_none",
        ANSWERS + "test_a_success_without_content",
    ),
    row(44, "half JSON, NaN, deep, 1e999", ANSWERS + "test_an_answer_that_is_none", "fuzz/test_bodies.py"),
    row(
        45,
        "fewer, more, wrong items",
        ANSWERS + "test_an_answer_that_is_none",
        ANSWERS + "test_a_ranking_that_is_none",
        UPSTREAMS + "test_a_wrong_answer_is_no_answer",
        UPSTREAMS + "test_vectors_of_another_size_than_asked_for_are_no_answer",
    ),
    row(46, "items out of order", ANSWERS + "test_vectors_out_of_order_are_put_in_order"),
    row(47, "usage missing, negative, 1e30", ANSWERS + "test_usage_that_is_none_spoils_no_answer"),
    row(
        48,
        "wrong lengths, bad chunks, glued-on answers",
        FRAMING + "test_an_answer_without_a_right_end",
        FRAMING + "test_an_odd_end_is_read_right_or_not_at_all",
        FRAMING + "test_an_answer_glued_on_is_never_given_to_the_next",
        FRAMING + "test_an_answer_that_comes_unasked_is_never_given_to_the_next",
    ),
    row(
        49,
        "the body stops or drips",
        FRAMING + "test_a_body_that_falls_silent",
        FRAMING + "test_a_body_that_stops",
    ),
    row(
        50,
        "packed, corrupt, cut",
        FRAMING + "test_packed_bodies_that_nobody_asked_for",
        FRAMING + "test_packed_bodies_that_cannot_be_unpacked",
    ),
    row(
        51,
        "bombs, endless answers",
        FRAMING + "test_what_is_too_large",
        FRAMING + "test_an_answer_up_to_the_limit_passes",
        FRAMING + "test_a_bomb_for_a_stream",
    ),
    row(
        52,
        "everything 503 under 30 clients",
        CROWDS + "test_no_storm_of_both_while_everything_is_503",
        "test_pool.py::test_no_storm_while_everything_fails",
    ),
    row(
        53,
        "failure before the first event",
        STREAMS + "test_a_failure_before_the_first_event_has_a_status",
        STREAMS + "test_silence_before_the_first_event_has_a_status",
        STREAMS + "test_a_refusal_in_place_of_a_stream",
    ),
    row(
        54,
        "streams written oddly",
        STREAMS + "test_a_stream_written_oddly_comes_out_clean",
        STREAMS + "test_a_stream_under_an_odd_head",
        STREAMS + "test_usage_is_cumulative_and_not_summed",
        "test_stream_shapes.py",
        "fuzz/test_events.py",
    ),
    row(55, "comments for long", STREAMS + "test_comments_keep_a_stream_alive"),
    row(
        56,
        "reset, FIN, half an event",
        STREAMS + "test_a_stream_that_breaks_ends_in_an_error",
        STREAMS + "test_a_deepsearch_run_for_a_caller_who_does_not_stream_has_a_status",
    ),
    row(
        57,
        "silence, comments for ever",
        STREAMS + "test_a_stream_that_gets_stuck_ends_in_an_error",
        STREAMS + "test_a_stream_without_an_end_is_ended",
        STREAMS + "test_a_stream_that_never_pauses_is_ended",
        STREAMS + "test_silence_before_the_first_event_has_a_status",
        STREAMS + "test_all_attempts_of_a_call_have_its_total_time_together",
        STREAMS + "test_a_run_whose_time_is_over_is_not_asked_for_again",
    ),
    row(
        58,
        "errors told in a stream",
        STREAMS + "test_an_error_told_in_the_middle",
        STREAMS + "test_deepsearchs_finish_reason_error_in_the_middle",
    ),
    row(59, "malformed events", STREAMS + "test_an_event_that_is_none_is_never_passed_on"),
    row(
        60,
        "large and endless events",
        STREAMS + "test_an_event_of_4_megabytes_passes",
        STREAMS + "test_an_event_that_never_ends_is_cut",
        "fuzz/test_events.py::test_each_byte_is_looked_at_once",
    ),
    row(
        61,
        "500 streams, 300 calls of 1 s",
        CROWDS + "test_500_streams_at_once",
        CROWDS + "test_300_calls_of_a_second_at_once",
    ),
    row(62, "200 broken calls", CROWDS + "test_200_broken_calls_leave_nothing_behind"),
    row(
        63,
        "SIGTERM with open work",
        GATEWAY + "test_sigterm_with_an_open_stream",
        PROCESS + "test_a_stream_that_ends_in_time_is_whole_and_the_exit_code_is_0",
        PROCESS + "test_with_a_delay_readiness_fails_first_and_calls_are_still_taken",
    ),
    row(
        64,
        "SIGTERM, stream longer than the drain",
        GATEWAY + "test_sigterm_with_a_stream_longer_than_the_drain",
        PROCESS + "test_a_stream_longer_than_the_drain_ends_in_an_error",
    ),
    row(65, "SIGKILL under load", USAGE + "test_a_kill_under_load_costs_at_most_the_last_second"),
    row(
        66,
        "broken configuration",
        PROCESS + "test_a_broken_file_changes_nothing_and_all_its_mistakes_are_told",
        PROCESS + "test_a_reload_reaches_every_worker_and_a_broken_file_none",
        "test_cli.py::test_every_mistake_is_told_with_its_file_line_and_key",
    ),
    row(
        67,
        "database locked",
        "test_ledger.py::test_a_locked_ledger_hurts_no_call_and_shows_in_the_health",
        STORE + "test_rows_wait_while_another_program_locks_the_file",
    ),
    row(68, "disk full", USAGE + "test_a_full_disk_hurts_no_call_and_is_caught_up_with"),
    row(
        69,
        "database damaged",
        STORE + "test_a_damaged_file_is_refused_and_left_as_it_is",
        USAGE + "test_a_file_that_must_not_be_touched_is_refused",
    ),
    row(
        70,
        "read-only file system",
        STORE + "test_where_no_file_can_be_it_says_so",
        USAGE + "test_without_a_place_for_them_it_starts_without_books",
        USAGE + "test_a_file_that_cannot_be_is_refused_where_it_was_named",
    ),
    row(  # PostgreSQL is not used yet, and Redis by the cache alone
        71,
        "Redis or Postgres down",
        "test_cache_tiers.py::test_without_redis_calls_go_on",
        "test_cache_tiers.py::test_a_redis_that_says_nothing_is_left_alone",
    ),
    row(72, "wall clock jumps", "faults/test_clock.py", "test_keystate.py::test_a_clock_that_was_set_locks_nobody_out"),
    row(
        73,
        "worker dies",
        PROCESS + "test_workers_share_the_port_and_one_that_dies_is_replaced",
        PROCESS + "test_the_limits_of_a_key_hold_for_all_workers_together",
    ),
)
