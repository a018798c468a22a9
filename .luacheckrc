std = "lua54"
max_line_length = 120
unused_args = false -- command, event and handler functions show their whole signature
exclude_files = { "build*/", ".git/", ".venv/" }
files["tests/lua/**/*_spec.lua"] = { std = "+busted" }
