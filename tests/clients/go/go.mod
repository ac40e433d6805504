module hotlog.dev/client

go 1.23
