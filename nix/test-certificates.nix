# A certificate that the machines of VM tests trust, for every name in them; and an authority that they do not trust, with
# a certificate of a server and one of the gateway.
{ openssl, runCommand }:
runCommand "test-certificates" { nativeBuildInputs = [ openssl ]; } ''
  mkdir $out
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj /CN=test -keyout $out/server.key -out $out/server.crt \
    -addext keyUsage=critical,digitalSignature,keyCertSign \
    -addext subjectAltName=DNS:mcp.example.com,DNS:*.mcp.example.com,DNS:github.example.com,DNS:acme.example.com,DNS:drive.example.com

  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj "/CN=private authority" -keyout authority.key -out $out/private-ca.pem \
    -addext keyUsage=critical,keyCertSign
  for name in backend gateway; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
      -subj "/CN=$name" -keyout key.pem -out certificate.pem -CA $out/private-ca.pem -CAkey authority.key \
      -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:$name.mcp.example.com
    cat key.pem certificate.pem > $out/$name.pem
  done
''
