package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/blang/semver/v4"
	"github.com/kong/go-database-reconciler/pkg/diff"
	"github.com/kong/go-database-reconciler/pkg/dump"
	"github.com/kong/go-database-reconciler/pkg/file"
	"github.com/kong/go-database-reconciler/pkg/schema"
	"github.com/kong/go-database-reconciler/pkg/state"
	"github.com/kong/go-database-reconciler/pkg/utils"
	"github.com/kong/go-kong/kong"
)

// plan is what brings the gateway from what it holds to what the files say.
type plan struct {
	client          *kong.Client
	schemas         *schema.Registry
	current, target *state.KongState
}

func ping(ctx context.Context, client *kong.Client, _ options) error {
	version, err := kongVersion(ctx, client)
	if err != nil {
		return err
	}
	fmt.Println("Successfully connected to Kong!")
	fmt.Println("Kong version: ", version)
	return nil
}

func apply(ctx context.Context, client *kong.Client, given options) error {
	made, err := planOf(ctx, client, given, true)
	if err != nil {
		return err
	}
	_, err = made.solve(ctx, given, diff.SyncerOpts{NoDeletes: true}, false)
	return err
}

func syncAll(ctx context.Context, client *kong.Client, given options) error {
	made, err := planOf(ctx, client, given, false)
	if err != nil {
		return err
	}
	_, err = made.solve(ctx, given, diff.SyncerOpts{}, false)
	return err
}

func diffOnly(ctx context.Context, client *kong.Client, given options) error {
	made, err := planOf(ctx, client, given, false)
	if err != nil {
		return err
	}
	found, err := made.solve(ctx, given, diff.SyncerOpts{}, true)
	if err == nil && found > 0 && given.failOnDiff {
		return errDiffers
	}
	return err
}

// reset deletes all that the engine sees.
func reset(ctx context.Context, client *kong.Client, given options) error {
	if !given.force {
		return errors.New("reset deletes everything: say --force")
	}
	config := dumpConfig(client, given.selectTags)
	current, err := currentState(ctx, client, config)
	if err != nil {
		return err
	}
	nothing, err := state.NewKongState()
	if err != nil {
		return err
	}
	made := plan{client, config.SchemaRegistry, current, nothing}
	_, err = made.solve(ctx, given, diff.SyncerOpts{}, false)
	return err
}

func dumpTo(ctx context.Context, client *kong.Client, given options) error {
	if _, err := os.Stat(given.output); err == nil && !given.yes {
		return fmt.Errorf("%s is there: say --yes to write over it", given.output)
	}
	version, err := kongVersion(ctx, client)
	if err != nil {
		return err
	}
	current, err := currentState(ctx, client, dumpConfig(client, given.selectTags))
	if err != nil {
		return err
	}
	return file.KongStateToFile(current, file.WriteConfig{
		SelectTags:  given.selectTags,
		Filename:    given.output,
		FileFormat:  file.YAML,
		KongVersion: version,
	})
}

func planOf(ctx context.Context, client *kong.Client, given options, partial bool) (plan, error) {
	content, err := file.GetContentFromFiles(given.files, false)
	if err != nil {
		return plan{}, err
	}
	version, err := parsedVersion(ctx, client)
	if err != nil {
		return plan{}, err
	}
	tags := []string(given.selectTags)
	if content.Info != nil && len(content.Info.SelectorTags) > 0 {
		tags = content.Info.SelectorTags
	}
	config := dumpConfig(client, tags)
	config.IsPartialApply = partial
	current, err := currentState(ctx, client, config)
	if err != nil {
		return plan{}, err
	}
	render := file.RenderConfig{CurrentState: current, KongVersion: version}
	raw, err := file.Get(ctx, content, render, config, client)
	if err != nil {
		return plan{}, err
	}
	target, err := state.Get(raw)
	return plan{client, config.SchemaRegistry, current, target}, err
}

// solve does, or with dry only prints, what there is to do; it returns how many operations that is.
func (p plan) solve(
	ctx context.Context, given options, how diff.SyncerOpts, dry bool,
) (int32, error) {
	how.CurrentState, how.TargetState = p.current, p.target
	how.KongClient, how.SchemaRegistry = p.client, p.schemas
	syncer, err := diff.NewSyncer(how)
	if err != nil {
		return 0, err
	}
	stats, errs, _ := syncer.Solve(ctx, given.parallelism, dry, false)
	created, updated := stats.CreateOps.Count(), stats.UpdateOps.Count()
	deleted := stats.DeleteOps.Count()
	fmt.Printf("Summary:\n  Created: %d\n  Updated: %d\n  Deleted: %d\n", created, updated, deleted)
	if errs != nil {
		return 0, utils.ErrArray{Errors: errs}
	}
	return created + updated + deleted, nil
}

func dumpConfig(client *kong.Client, tags []string) dump.Config {
	return dump.Config{
		SelectorTags:                         tags,
		IsConsumerGroupScopedPluginSupported: true, // what Kong has from 3.4 on
		SchemaRegistry:                       schema.NewRegistry(client, false),
	}
}

func currentState(
	ctx context.Context, client *kong.Client, config dump.Config,
) (*state.KongState, error) {
	raw, err := dump.Get(ctx, client, config)
	if err != nil {
		return nil, err
	}
	return state.Get(raw)
}

func kongVersion(ctx context.Context, client *kong.Client) (string, error) {
	root, err := client.Root(ctx)
	if err != nil {
		return "", err
	}
	version, ok := root["version"].(string)
	if !ok {
		return "", errors.New("GET / names no version")
	}
	return version, nil
}

func parsedVersion(ctx context.Context, client *kong.Client) (semver.Version, error) {
	version, err := kongVersion(ctx, client)
	if err != nil {
		return semver.Version{}, err
	}
	return utils.ParseKongVersion(version)
}
