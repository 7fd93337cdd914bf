"""Who altered a film, how, and where: a C2PA manifest in every film that is delivered. Knows no stages.

    decisions, model, cast -- statement -- Statement --.
    certificate, key ------ identity ------------------|-- sign -- the film with its manifest, or a sidecar beside it
    the finished film, its inputs ---------------------'                |
                                                                       read -- Provenance, for people and for `verify`

Source: C2PA Technical Specification 2.x; signed and read by c2pa-python, the standard's own library.
"""
