package main

import (
	"context"
	"fmt"

	"github.com/kong/go-database-reconciler/pkg/file"
	"github.com/kong/go-database-reconciler/pkg/state"
	"github.com/kong/go-database-reconciler/pkg/utils"
	"github.com/kong/go-kong/kong"
)

// validate asks the gateway about each entity of the files, and changes nothing.
func validate(ctx context.Context, client *kong.Client, given options) error {
	content, err := file.GetContentFromFiles(given.files, false)
	if err != nil {
		return err
	}
	version, err := parsedVersion(ctx, client)
	if err != nil {
		return err
	}
	nothing, err := state.NewKongState()
	if err != nil {
		return err
	}
	render := file.RenderConfig{CurrentState: nothing, KongVersion: version}
	raw, err := file.Get(ctx, content, render, dumpConfig(client, given.selectTags), client)
	if err != nil {
		return err
	}
	return ask(ctx, client, entities(raw))
}

type entity struct {
	kind kong.EntityType
	body any
}

func ask(ctx context.Context, client *kong.Client, all []entity) error {
	wrong := []error{}
	for _, one := range all {
		good, message, err := client.Schemas.Validate(ctx, one.kind, one.body)
		if err == nil && !good {
			err = fmt.Errorf("%s", message)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("validate entity '%s': %w", one.kind, err))
		}
	}
	if len(wrong) > 0 {
		return utils.ErrArray{Errors: wrong}
	}
	return nil
}

func entities(raw *utils.KongRawState) []entity {
	all := []entity{}
	all = collect(all, kong.EntityTypeServices, raw.Services)
	all = collect(all, kong.EntityTypeRoutes, raw.Routes)
	all = collect(all, kong.EntityTypePlugins, raw.Plugins)
	all = collect(all, kong.EntityTypeUpstreams, raw.Upstreams)
	all = collect(all, kong.EntityTypeTargets, raw.Targets)
	all = collect(all, kong.EntityTypeCertificates, raw.Certificates)
	all = collect(all, kong.EntityTypeSNIs, raw.SNIs)
	all = collect(all, kong.EntityTypeCACertificates, raw.CACertificates)
	all = collect(all, kong.EntityTypeConsumers, raw.Consumers)
	return collect(all, "oauth2_credentials", raw.Oauth2Creds)
}

func collect[T any](all []entity, kind kong.EntityType, found []T) []entity {
	for _, one := range found {
		all = append(all, entity{kind, one})
	}
	return all
}
