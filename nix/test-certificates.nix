# A certificate that the machines of VM tests trust, for every name in them.
{ openssl, runCommand }:
runCommand "test-certificates" { nativeBuildInputs = [ openssl ]; } ''
  mkdir $out
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj /CN=test -keyout $out/server.key -out $out/server.crt \
    -addext keyUsage=critical,digitalSignature,keyCertSign \
    -addext subjectAltName=DNS:mcp.example.com,DNS:*.mcp.example.com,DNS:github.example.com,DNS:acme.example.com
''
