# Every assertion and every warning at once.
{
  services.mcp-oauth-gateway = {
    enable = true;
    domain = "not a domain";
    certificate.certFile = "/etc/test-certificates/server.crt";
    acme.email = "ops@example.com";
    servers = {
      Upper.command = [ "/bin/true" ];
      empty = { };
      both = {
        command = [ "/bin/true" ];
        url = "http://10.0.0.5:3000/mcp";
      };
      one = {
        command = [ "/bin/true" ];
        port = 20001;
      };
      other = {
        command = [ "/bin/true" ];
        port = 20001;
      };
    };
  };
}
