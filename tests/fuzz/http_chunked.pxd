include "_http.pxd"
