// Program deck is decK's command, as decK's own main calls it.
package main

import (
	"context"

	"github.com/kong/deck/cmd"
)

func main() {
	cmd.Execute(context.Background())
}
