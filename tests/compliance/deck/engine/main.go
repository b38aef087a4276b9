// Program deck runs decK's engine, go-database-reconciler over go-kong, with decK's words for it:
//
//	deck gateway ping
//	deck gateway validate|apply|diff|sync [flags] FILE...
//	deck gateway dump -o FILE
//	deck gateway reset --force
//
// It knows the flags that the judge uses. What it reads, compares and writes is the engine's doing;
// reading flags, printing the summary and asking for one validation an entity are done here.
// DECK_KONG_ADDR names the Admin API.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/kong/go-database-reconciler/pkg/utils"
	"github.com/kong/go-kong/kong"
)

const (
	exitFailed  = 1
	exitDiffers = 2 // diff --non-zero-exit-code found something to do

	defaultAddress = "http://localhost:8001"
	timeoutSeconds = 10
)

var errDiffers = errors.New("the gateway differs from the files")

// options are the flags of all commands, and the files behind them.
type options struct {
	headers     list // name:value, sent with every request
	selectTags  list
	parallelism int
	failOnDiff  bool
	output      string
	force       bool
	yes         bool
	files       []string
}

type list []string

func (found *list) String() string { return strings.Join(*found, ",") }

func (found *list) Set(text string) error {
	*found = append(*found, strings.Split(text, ",")...)
	return nil
}

type command func(context.Context, *kong.Client, options) error

var commands = map[string]command{
	"ping":     ping,
	"validate": validate,
	"apply":    apply,
	"diff":     diffOnly,
	"sync":     syncAll,
	"dump":     dumpTo,
	"reset":    reset,
}

func main() {
	err := run(context.Background(), os.Args[1:])
	if errors.Is(err, errDiffers) {
		os.Exit(exitDiffers)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(exitFailed)
	}
}

func run(ctx context.Context, words []string) error {
	if len(words) < 2 || words[0] != "gateway" || commands[words[1]] == nil {
		return errors.New("expected: gateway ping|validate|apply|diff|sync|dump|reset")
	}
	given, err := parse(words[1], words[2:])
	if err != nil {
		return err
	}
	address := os.Getenv("DECK_KONG_ADDR")
	if address == "" {
		address = defaultAddress
	}
	config := utils.KongClientConfig{
		Address: address, Timeout: timeoutSeconds, Headers: given.headers,
	}
	client, err := utils.GetKongClient(config)
	if err != nil {
		return err
	}
	return commands[words[1]](ctx, client, given)
}

func parse(name string, words []string) (options, error) {
	given := options{}
	flags := flag.NewFlagSet("deck gateway "+name, flag.ContinueOnError)
	flags.Var(&given.headers, "headers", "name:value, for every request")
	flags.Var(&given.selectTags, "select-tag", "only entities with all of these tags")
	flags.IntVar(&given.parallelism, "parallelism", 10, "writes at a time")
	flags.BoolVar(&given.failOnDiff, "non-zero-exit-code", false, "diff: exit status 2 for a difference")
	flags.StringVar(&given.output, "o", "kong.yaml", "dump: the file to write")
	flags.BoolVar(&given.yes, "yes", false, "dump: overwrite the file")
	flags.BoolVar(&given.force, "force", false, "reset: do not ask")
	err := flags.Parse(words)
	given.files = flags.Args()
	if len(given.files) == 0 {
		given.files = []string{"-"}
	}
	return given, err
}
