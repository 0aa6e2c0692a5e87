# The stock policy: at most 10 sessions from one host, 100 from the network around it, 20000 in all. An address on the
# whitelist is limited by the last alone.
#
# Two lengths are one for each family, "/24,/48" the /24 of an IPv4 client and the /48 of an IPv6 one: an IPv6 customer
# has a whole /64, so a limit for single addresses would have no effect.
require ["variables", "relational", "comparator-i;ascii-numeric"];

$refusal = "connection limit exceeded";

# Addresses are compared as texts. IPv6 leaves out a row of zeros, so that a network has two forms: this is
# 2001:db8::/48.
$whitelist = ["192.0.2.*", "2001:db8::*", "2001:db8:0:*"];
$exceptions = ["192.0.2.13"];

# The session that asks is counted too.
($all) = audit_service "SMTP" "/0";
if ec_test :value "gt" :comparator "i;ascii-numeric" "${all}" "20000" {
  ec_disconnect 421 "${refusal}" "all";
}

if allof (ec_test :matches "%{i}" $whitelist, not ec_test :is "%{i}" $exceptions) {
  stop;
}

($host) = audit_service "SMTP" "/32,/64";
if ec_test :value "gt" :comparator "i;ascii-numeric" "${host}" "10" {
  ec_disconnect 421 "${refusal}" "host";
}

($network) = audit_service "SMTP" "/24,/48";
if ec_test :value "gt" :comparator "i;ascii-numeric" "${network}" "100" {
  ec_disconnect 421 "${refusal}" "network";
}
