"""Names of the reference: the hooks that are called here, and names that scripts may use and that are not available.

Source: the pages of Momentum 4.x, "Lua Functions Summary" and "Hook Points", and its published sample policies.
"""

HOOKS = """
init deinit core_validate_accept validate_connect validate_ehlo validate_mailfrom validate_rcptto validate_data
validate_data_spool validate_data_spool_each_rcpt validate_dealloc
"""
"""The hooks of a script that `LuaPolicy` calls."""

_CORE = """
__mail_queue_maintain aaa_log annotate_batch assess_batch binding_group_choose_binding body_modify bounce_error_classify
cache_get cache_set check_outbound_conn_throttle check_outbound_mess_throttle config_fetch_domain_routes
config_get_domain_relay config_get_host_failure_retry config_get_message_routing_domain config_option_post_set
config_option_pre_set connection_goal connection_post_bind control_allow_writable_config control_allow_writable_config2
control_post_command control_post_control control_pre_command control_shutdown control_shutdown_ex
dec_inbound_connections dec_outbound_connections disk_queue_core_inject dns_get_as dns_get_mxs
domain_requires_master_scheduler ec_bag_find ec_message_enqueue ec_message_mcmt_fixup ec_message_mcmt_pre_fixup
ec_message_part_get_content_type ec_message_set_next_attempt ec_mime_component_extract_content_type
esmtp_message_sp_async_samfunc final_validation final_validation2 gauge_cache_manip generate_bounces
generate_rfc3464_message_preamble generate_soft_bounce_message generate_soft_bounce_message_preamble
get_inbound_tls_parameters get_msg_expiration_params get_outbound_tls_parameters get_protocol_string_for_trace_headers
get_received_header_text inbound_smtp_tls_verify_callback inc_inbound_connections inc_outbound_conn_throttle
inc_outbound_connections inc_outbound_mess_throttle is_adaptive_scope_global log_attempt_v1
log_client_connection_failure log_delivery_v1 log_error log_permanent_failure_v1 log_reception_v1 log_rejection
log_reopen log_spool_import log_transient_failure_v1 mail_queue_get_next_active mail_queue_insert_active
mail_queue_maintain_domain mailq_get_next_active mailq_insert_active message_body_in_core msg_dispose
outbound_smtp_tls_verify_callback outbound_tls_ca outbound_tls_cert outbound_tls_ciphers outbound_tls_key
outbound_tls_verify post_assemble_fwd_message post_config_commit post_dns_handle_a post_dns_handle_mx
post_drop_privileges post_event_read post_event_write post_final_validation post_generate_rfc3464_message
post_generate_soft_bounce_message post_initiate_connection_smtp post_mail_queue_maintain_domain post_msg_each_rcpt
post_read_smtp post_smtp_command post_swap_in_meta post_validate_data_spool_each_rcpt_v1 post_validate_set_binding
pre_console_release pre_dns_handle_a pre_dns_handle_mx pre_drop_privileges pre_ec_can_relay_to pre_esmtp_auth
pre_event_close pre_mail_queue_maintain_domain pre_mail_queue_message_requeue pre_mailq_message_requeue
pre_msg_each_rcpt pre_read_smtp pre_swap_out_meta premigrate_outbound_connection rfc3464_inline_message_fragment
server_esmtp_session_abort set_delayed_queue_event smtp_client_mailfrom_args smtp_client_rcptto_args
smtp_client_xclient_args smtp_error_classify smtp_should_session_shutdown smtp_tls_reporting swap_out_multi sys_init
use_outbound_tls validate_auth validate_auth_hook validate_connect validate_data_spool_each_rcpt
validate_expand_string veto_host_connection
"""

OTHER_HOOKS = """
validate_set_binding validate_rcptto_list validate_rcptto_list_final validate_auth cluster_adaptive_update
cluster_membership_update cluster_nodename cluster_stats_request cluster_subcluster cluster_update_trans_metrics
config_rsrc_setup delay_dsn_generate_delay_dsn delay_dsn_next_delay_dsn delay_dsn_send_notification http_request_eval
http_response_eval inbound_smtp_tls_post_accept msg_gen_data_spool msg_gen_data_spool_each_rcpt msgc_get_private_name
msgc_join msgc_membership_subscribe msgc_multicast_publish msgc_multicast_subscribe outbound_smtp_auth_config
publish_packet restinj_body_assignment restinj_json_request restinj_post_body_assignment restinj_recip_response
sieve_compile_script sieve_convert_charset sieve_fetch_script smpp_submit_response
""" + " ".join(f"core_{name}" for name in _CORE.split())
"""The reference's other hooks: nothing of what they are about happens here."""

ABSENT = {
    "modules": """
    json msys.adaptive msys.apn msys.av msys.base64 msys.boot msys.bounce msys.brightmail msys.cloudmark msys.commtouch
    msys.counter msys.datasource msys.db msys.delivery msys.expurgate msys.extended.message_routing msys.gauge_cache
    msys.gcm msys.http.client msys.http_lua msys.httpclnt msys.httpsrv msys.idn msys.mstore msys.os msys.qp
    msys.rfc3464 msys.smpp msys.symantec_beik msys.threadpool msys.timer msys.tls_params msys.validate.dk
    msys.validate.dkim msys.validate.openarc msys.validate.opendkim
    """,
    "msys": """
    asyncOk cast config dnsLookup getClassMetaTable lock parseRFC2822Addresses readfile runInPool sleep snmpTrap
    type unlock
    """,
    "msg": """
    address_header binding binding_group body body_match body_replace build code copy discard forward get_code
    get_delivery_method get_envelope get_envelope2 header inject listener_addr makeBoundary makeContainer makePart mime
    raw raw_match raw_replace reception_peer routing_domain set_code text text_match text_replace
    """,
    "vctx": "add_recipient remove_recipient",
    "registrations": """
    msys.adaptive.registerRules msys.http_lua.registerModule msys.httpsrv.register msys.registerAuth
    msys.registerControl
    """,
}
"""Modules that may be required, and functions: each call of them is an error that names it. The registrations may be
called: what they register is never called, and a warning says so."""
