"""All state, in Redis and on the disk of this host. Secrets are stored as hashes only.

| key | value | lives |
|---|---|---|
| `client:ID` | a registered client (`clients`) | days unless used, then as long as its grants |
| `unused-clients` | identifiers of clients without a login yet, by time of registration | as the newest |
| `code:HASH` | a code, kept after it has expired so that a replay is noticed (`codes`) | 10 minutes |
| `redeemed:HASH` | the attempt that redeemed the code | 10 minutes |
| `grant:SID` | a grant (`grants`); its access tokens are valid while it exists | a refresh token lifetime |
| `refresh:SID` | the grant's refresh generation (`refresh_tokens`), and when former ones were used | as the grant |
| `grants-of-user:SUB`, `grants-of-client:ID` | grant ids by last use | as their last grant |
| `login-of-user:SUB` | the provider's token of the user, encrypted (`last_logins`) | as their last grant |
| `user-credentials:NAME:SUB` | what a user has set for a server, encrypted (`user_credentials`) | a week after grants |
| `credential-servers` | names of servers for which users have set something (`user_credentials`) | for ever |
| `login:HASH` | an authorization request during the login at the identity provider (`attempts`) | 10 minutes |
| `logins` | the hashes of these, by the time of the redirect there | a day after the newest |
| `waiting-login:HASH` | a complete login for which the user is asked for credentials | 30 minutes |
| `connection:HASH` | why a browser was sent to a service where the user connects an account | 10 minutes |
| `connections` | the hashes of these, by the time of the redirect there | a day after the newest |
| `waiting-logins` | the hashes of these, by the time of the login | a day after the newest |
| `session:HASH` | the user who is signed in (`sessions`) | `lifetimes.session` at most |
| `sessions-of-user:SUB` | the hashes of these, by their end | as the last of them |
| `profile-of-user:SUB` | the user's memberships, encrypted, for pages (`sessions`) | as the newest of them |
| `approvals-of-user:SUB` | digest → remembered consent and its time (`consents`) | 90 days after the last one |
| `pins:PROVIDER` | login name → subject that first used it (`pins`) | for ever |
| `quota:NAME:HASH` | the count of a quota in the current window (`quotas`) | one window |
| `wait:HASH` | how long a group of endpoints has just told an address to wait | seconds |
| `used:HASH` | the attempt that used an assertion (`identifiers`) | until the assertion has expired |
| `document:HASH` | a fetched client document or key set (`documents`) | a day at most |
| `documents` | the hashes of these, by the time of the fetch | a day after the newest |
| `lock:HASH` | a lock that is held (`locks`) | seconds |
| `signing-keys` | activation → `live` or `retired` (`keys/signing_key_rotation.py`) | for ever |
| `signed-until` | `kid` → when the last token that it signed ends | for ever |
| `document-probes` | instance → what its last probe found (`oauth/document_probe.py`) | a day after the last |
| `document-proof:INSTANCE:HOST` | that a document was fetched from there | until the next probe is due |
| `created-clients` | client_id → a client that the operator has created (`created_clients`) | until it is deleted |
| `workload-issuers` | names of trusted issuers for whose workloads tokens were issued (`noted_names`) | for ever |
| `declared-clients` | names of declared clients for which grants were made (`noted_names`) | for ever |
| `subjects-name-servers` | set once the subjects have their present form (`subject_renaming`) | for ever |
"""
